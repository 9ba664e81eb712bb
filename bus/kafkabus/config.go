package kafkabus

import (
	"log/slog"
	"time"

	"github.com/aura360/eventbus/bus/driver"
)

// Config says how to reach Kafka and how to use it. The names are librdkafka's,
// so that settings of a Python service carry over. The zero value of every field
// but BootstrapServers is usable. Problems are named by the environment variable
// the bus reads the field from: KAFKA_ and librdkafka's name in upper case.
type Config struct {
	// BootstrapServers is a list of host:port separated by commas. Required.
	BootstrapServers string

	// SecurityProtocol is PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL. Defaults to
	// PLAINTEXT.
	SecurityProtocol string

	// SASLMechanism is PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER.
	// Defaults to PLAIN where the security protocol has SASL.
	SASLMechanism string
	// SASLUsername and SASLPassword are for PLAIN and SCRAM. In Confluent Cloud
	// they are an API key and its secret.
	SASLUsername, SASLPassword string

	// OAUTHBEARER with tokens from an OAuth 2.0 endpoint (client credentials
	// grant, RFC 6749 section 4.4). A token is renewed before it expires.
	SASLOAuthBearerTokenEndpointURL string
	SASLOAuthBearerClientID         string
	SASLOAuthBearerClientSecret     string
	SASLOAuthBearerScope            string // scopes separated by spaces
	SASLOAuthBearerExtensions       string // SASL extensions: name=value,name=value

	// SSLCALocation is a PEM file with the authorities trusted to sign the
	// brokers' certificates. Defaults to the system's. Files are read again for
	// each connection, so that they can be renewed in place.
	SSLCALocation string
	// SSLCertificateLocation and SSLKeyLocation are PEM files that identify this
	// client; SSLKeyPassword opens an encrypted key (PKCS #8 with PBES2, or
	// OpenSSL's older format).
	SSLCertificateLocation, SSLKeyLocation, SSLKeyPassword string
	// SSLEndpointIdentificationAlgorithm is https, or none: the certificate's host
	// name is then not checked, its authority still is. Defaults to https.
	SSLEndpointIdentificationAlgorithm string

	// ClientID names this client in the broker's logs, metrics and quotas.
	// Defaults to "eventbus".
	ClientID string

	// GroupStrategy is how a group's members share partitions: cooperative-sticky,
	// range, roundrobin, sticky, or several separated by commas, preferred first.
	// A member can join only a group whose members know a common one (Python's
	// default is range,roundrobin). cooperative-sticky cannot be mixed with
	// others. Defaults to cooperative-sticky.
	GroupStrategy string

	// Partitioner chooses the partition from the key: consistent_random (CRC32, what
	// librdkafka does), murmur2_random (what Java does), fnv1a_random (what sarama
	// does) or round_robin, which ignores keys and so keeps no order. Without a
	// key all but the last choose at random. Defaults to consistent_random.
	Partitioner string

	// CompressionType is none, gzip, snappy, lz4 or zstd. Defaults to snappy.
	CompressionType string

	// MaxMessageBytes is the largest message this client sends, 1 KiB to 96 MiB.
	// What a topic takes is the broker's to say (1 MiB unless set otherwise);
	// what it refuses is Rejected and permanent. Defaults to 34 MiB.
	MaxMessageBytes int

	// DeliveryTimeout bounds one Publish whose context has no earlier end,
	// 100 ms to 15 min. Defaults to 30 s.
	DeliveryTimeout time.Duration
	// ConnectTimeout bounds how long a Publish waits for the first connection,
	// up to DeliveryTimeout. Defaults to 5 s.
	ConnectTimeout time.Duration
	// SocketConnectionSetupTimeout bounds dialling one broker, TLS handshake
	// included. Defaults to 5 s.
	SocketConnectionSetupTimeout time.Duration
	// SocketTimeout bounds the wait for one answer from a broker. Defaults to 15 s.
	SocketTimeout time.Duration

	// SessionTimeout is after how long without a heartbeat the group gives a
	// member's partitions to others. Brokers allow 6 s to 30 min unless set
	// otherwise. Defaults to 45 s.
	SessionTimeout time.Duration
	// HeartbeatInterval is at most a third of SessionTimeout. Defaults to 3 s. How
	// long a handler takes does not matter: heartbeats go on.
	HeartbeatInterval time.Duration
	// MaxPollInterval is how long a rebalance waits for a member to finish the
	// messages it has in hand. Defaults to 5 min.
	MaxPollInterval time.Duration
	// AutoCommitInterval is how often acked offsets are committed; a member that
	// dies repeats what it acked since. Defaults to 1 s, and to 200 ms in the
	// native build.
	AutoCommitInterval time.Duration

	// Provision says whether and how missing topics are created.
	Provision driver.Provision
	// ReplicationFactor of created topics. Defaults to the broker's setting, or
	// where that cannot be met as many as there are brokers, at most 3.
	ReplicationFactor int

	// Log gets what happens in the background: connections lost and restored.
	// Defaults to discarding.
	Log *slog.Logger
}

// Environment variables, by field. Validate names them.
const (
	envBootstrap   = "KAFKA_BOOTSTRAP_SERVERS"
	envProtocol    = "KAFKA_SECURITY_PROTOCOL"
	envMechanism   = "KAFKA_SASL_MECHANISM"
	envUsername    = "KAFKA_SASL_USERNAME"
	envPassword    = "KAFKA_SASL_PASSWORD" //nolint:gosec // the variable's name
	envTokenURL    = "KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL"
	envOAuthID     = "KAFKA_SASL_OAUTHBEARER_CLIENT_ID"
	envOAuthSecret = "KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET" //nolint:gosec // the variable's name
	envOAuthScope  = "KAFKA_SASL_OAUTHBEARER_SCOPE"
	envOAuthExt    = "KAFKA_SASL_OAUTHBEARER_EXTENSIONS"
	envCA          = "KAFKA_SSL_CA_LOCATION"
	envCert        = "KAFKA_SSL_CERTIFICATE_LOCATION"
	envKey         = "KAFKA_SSL_KEY_LOCATION"
	envKeyPassword = "KAFKA_SSL_KEY_PASSWORD" //nolint:gosec // the variable's name
	envEndpointID  = "KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM"
	envStrategy    = "KAFKA_GROUP_STRATEGY"
	envPartitioner = "KAFKA_PARTITIONER"
	envCompression = "KAFKA_COMPRESSION_TYPE"
	envMaxBytes    = "KAFKA_MESSAGE_MAX_BYTES"
	envDelivery    = "KAFKA_DELIVERY_TIMEOUT"
	envConnect     = "KAFKA_CONNECT_TIMEOUT"
	envSetup       = "KAFKA_SOCKET_CONNECTION_SETUP_TIMEOUT"
	envSocket      = "KAFKA_SOCKET_TIMEOUT"
	envSession     = "KAFKA_SESSION_TIMEOUT"
	envHeartbeat   = "KAFKA_HEARTBEAT_INTERVAL"
	envMaxPoll     = "KAFKA_MAX_POLL_INTERVAL"
	envCommit      = "KAFKA_AUTO_COMMIT_INTERVAL"
	envPartitions  = "KAFKA_TOPIC_PARTITIONS"
	envRetention   = "KAFKA_TOPIC_RETENTION"
	envReplication = "KAFKA_TOPIC_REPLICATION_FACTOR"
)

// Limits and defaults.
const (
	defaultMaxMessageBytes = 34 << 20 // a poison message of 32 MiB and its headers
	maxMaxMessageBytes     = 96 << 20 // sarama sends no request over 100 MiB

	defaultPartitions = 3
	defaultRetention  = 7 * 24 * time.Hour
)

// withDefaults returns c with every zero field set.
func (c Config) withDefaults() Config {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	dur := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	num := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	def(&c.SecurityProtocol, "PLAINTEXT")
	if c.sasl() {
		def(&c.SASLMechanism, "PLAIN")
	}
	def(&c.SSLEndpointIdentificationAlgorithm, "https")
	def(&c.ClientID, "eventbus")
	def(&c.GroupStrategy, "cooperative-sticky")
	def(&c.Partitioner, "consistent_random")
	def(&c.CompressionType, "snappy")
	num(&c.MaxMessageBytes, defaultMaxMessageBytes)
	dur(&c.DeliveryTimeout, 30*time.Second)
	dur(&c.ConnectTimeout, min(5*time.Second, c.DeliveryTimeout))
	dur(&c.SocketConnectionSetupTimeout, 5*time.Second)
	dur(&c.SocketTimeout, 15*time.Second)
	dur(&c.SessionTimeout, 45*time.Second)
	dur(&c.HeartbeatInterval, min(3*time.Second, c.SessionTimeout/3))
	dur(&c.MaxPollInterval, 5*time.Minute)
	dur(&c.AutoCommitInterval, time.Second)
	num(&c.Provision.Partitions, defaultPartitions)
	dur(&c.Provision.Retention, defaultRetention)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) sasl() bool {
	return c.SecurityProtocol == "SASL_PLAINTEXT" || c.SecurityProtocol == "SASL_SSL"
}

func (c Config) ssl() bool {
	return c.SecurityProtocol == "SSL" || c.SecurityProtocol == "SASL_SSL"
}
