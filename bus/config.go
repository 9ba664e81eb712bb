package bus

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/aura360/eventbus/middleware"
)

// Config is everything a bus can be told. Every field with an env tag is also
// read from that environment variable by ConfigFromEnv; a secret also from the
// file that NAME_FILE names. The zero value of a field means its default.
//
// docs/configuration.md is generated from the comments below.
type Config struct {
	// Where publishes go: kafka, redis, memory or disabled. Defaults to kafka
	// when KAFKA_BOOTSTRAP_SERVERS is set, else to redis when MESSAGING_REDIS_URL
	// (or REDIS_URL) is set; with none of them it is an error.
	Backend string `env:"MESSAGING_BACKEND"`
	// Which build of the kafka and redis backends: native (our own: batches, many
	// messages in flight, order per key with any number of members) or watermill
	// (the stock adapters with safe settings). Defaults to native.
	Adapter string `env:"MESSAGING_ADAPTER"`
	// Prefix of the topics that the bus keeps for itself on a broker, such as
	// the poison queues. 1 to 100 characters of a-z A-Z 0-9 . _ -. Defaults to
	// eventbus.
	Namespace string `env:"MESSAGING_NAMESPACE"`
	// Name of this service: the CloudEvents source of what it publishes and its
	// client id at the broker. Defaults to the program's file name.
	ServiceName string `env:"SERVICE_NAME"`

	// Largest event accepted, in bytes of its JSON, 1 to 33554432 (32 MiB). The
	// broker must take it too: Kafka's own default is 1 MiB. Defaults to 1048576.
	MaxEventBytes int `env:"MESSAGING_MAX_EVENT_BYTES"`
	// How long one publish may take with all its retries, 1ms to 10m. A shorter
	// deadline of the caller's context wins. Defaults to 30s.
	PublishTimeout time.Duration `env:"MESSAGING_PUBLISH_TIMEOUT"`
	// How long one try of a publish may take, 1ms to 10m. Defaults to 10s.
	PublishAttemptTimeout time.Duration `env:"MESSAGING_PUBLISH_ATTEMPT_TIMEOUT"`

	// Unacknowledged messages per router or subscriber, 1 to 10000. The
	// watermill adapters keep one per partition whatever this says. Defaults to 256.
	MaxInFlight int `env:"MESSAGING_MAX_IN_FLIGHT"`
	// Quick tries of a handler, in place, before its message waits for a delayed
	// retry or, after the last of those, goes to the poison queue, 1 to 100.
	// Defaults to 5.
	RetryMaxAttempts int `env:"MESSAGING_RETRY_MAX_ATTEMPTS"`
	// Upper bound of the pause before the second try, 1ms to 10m; it doubles with
	// every further one, and each pause is random below its bound. Defaults to 100ms.
	RetryInitialInterval time.Duration `env:"MESSAGING_RETRY_INITIAL_INTERVAL"`
	// The bound stops doubling here, 1ms to 1h. Defaults to 10s.
	RetryMaxInterval time.Duration `env:"MESSAGING_RETRY_MAX_INTERVAL"`
	// How long a message waits for its second, third and further rounds of quick
	// tries, without holding up others: up to 10 rising durations from 1ms to 24h,
	// separated by commas, or none. Each has a topic of its own,
	// NAMESPACE.retry.GROUP.DELAY: before a delay is taken out of the list,
	// that topic's lag should be 0, since nobody reads it any more. Defaults to
	// 5s,1m,10m.
	RetryDelays middleware.Delays `env:"MESSAGING_RETRY_DELAYS"`
	// How long one try of a handler may run before its context ends, 0 (no bound)
	// to 24h. Defaults to 0.
	HandlerTimeout time.Duration `env:"MESSAGING_HANDLER_TIMEOUT"`
	// How long a stopping router waits for running handlers, 1ms to 1h. Defaults
	// to 30s.
	DrainTimeout time.Duration `env:"MESSAGING_DRAIN_TIMEOUT"`
	// How many handled events are remembered to recognise duplicates, per
	// process, 1000 to 100000000; about 100 bytes each. Defaults to 1000000.
	DedupEntries int `env:"MESSAGING_DEDUP_ENTRIES"`
	// How long a handled event is remembered at least, memory permitting, 1s to
	// 168h. Defaults to 1h.
	DedupTTL time.Duration `env:"MESSAGING_DEDUP_TTL"`

	// Whether a missing topic is created on first use: true or false. The poison
	// queues and retry topics are created in any case. Defaults to true.
	CreateTopics *bool `env:"MESSAGING_CREATE_TOPICS"`
	// Partitions of a created topic, 1 to 1000. Defaults to 3.
	TopicPartitions int `env:"MESSAGING_TOPIC_PARTITIONS"`
	// Retention of a created topic, 1m to 87600h. On Redis nothing is forgotten by
	// age: native trims what every group has consumed, watermill nothing. Defaults
	// to 168h (7 days).
	TopicRetention time.Duration `env:"MESSAGING_TOPIC_RETENTION"`

	Redis RedisConfig
	Kafka KafkaConfig

	// Logger for everything the bus has to say. Defaults to slog.Default().
	Logger *slog.Logger `env:"-"`
	// Registry for the metrics, also served at /metrics. Defaults to a registry of
	// the bus's own.
	Registry *prometheus.Registry `env:"-"`
	// TracerProvider for spans. Defaults to OpenTelemetry's global one.
	TracerProvider trace.TracerProvider `env:"-"`
	// Propagator for trace context in metadata. Defaults to W3C Trace Context and Baggage.
	Propagator propagation.TextMapPropagator `env:"-"`

	// PublishMiddleware stands between metrics and retry on the publish path: it
	// sees each publish once, with trace context already in the metadata.
	PublishMiddleware []middleware.Publish `env:"-"`
	// Without leaves pieces out of the publish chain: middleware.PieceTrace,
	// PieceMetrics, PieceRetry, PiecePoison. What validates cannot be left out.
	Without []middleware.Piece `env:"-"`
}

// RedisConfig says how to reach Redis.
type RedisConfig struct {
	// Redis that holds the streams: redis://, rediss:// (TLS), unix://, with
	// user:password@ for ACL users; redis+sentinel://host:port,host:port/master
	// for Sentinel; redis+cluster://host:port,host:port for Cluster. Falls back to
	// REDIS_URL.
	URL Secret `env:"MESSAGING_REDIS_URL"`
	// ACL user; wins over the URL's.
	Username string `env:"MESSAGING_REDIS_USERNAME"`
	// Password; wins over the URL's.
	Password Secret `env:"MESSAGING_REDIS_PASSWORD"`
	// ACL user at the Sentinels.
	SentinelUsername string `env:"MESSAGING_REDIS_SENTINEL_USERNAME"`
	// Password at the Sentinels.
	SentinelPassword Secret `env:"MESSAGING_REDIS_SENTINEL_PASSWORD"`
	// PEM file with the authorities that may sign the server's certificate.
	// Defaults to the system's.
	TLSCAFile string `env:"MESSAGING_REDIS_TLS_CA"`
	// PEM file with the client's certificate, for servers that ask for one.
	TLSCertFile string `env:"MESSAGING_REDIS_TLS_CERT"`
	// PEM file with the client's key.
	TLSKeyFile string `env:"MESSAGING_REDIS_TLS_KEY"`
}

// KafkaConfig says how to reach Kafka, in librdkafka's property names.
type KafkaConfig struct {
	// Brokers to start from, host:port separated by commas.
	BootstrapServers string `env:"KAFKA_BOOTSTRAP_SERVERS"`
	// PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL. Defaults to PLAINTEXT, or to
	// SASL_SSL when KAFKA_API_KEY is set.
	SecurityProtocol string `env:"KAFKA_SECURITY_PROTOCOL"`
	// PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER. Defaults to PLAIN when
	// the protocol is SASL_*.
	SASLMechanism string `env:"KAFKA_SASL_MECHANISM"`
	// User for PLAIN and SCRAM. Also read from KAFKA_API_KEY, as Confluent Cloud
	// calls it.
	SASLUsername string `env:"KAFKA_SASL_USERNAME"`
	// Password for PLAIN and SCRAM. Also read from KAFKA_API_SECRET.
	SASLPassword Secret `env:"KAFKA_SASL_PASSWORD"`
	// Token endpoint for OAUTHBEARER with client credentials.
	OAuthTokenURL string `env:"KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL"`
	// Client id for OAUTHBEARER.
	OAuthClientID string `env:"KAFKA_SASL_OAUTHBEARER_CLIENT_ID"`
	// Client secret for OAUTHBEARER.
	OAuthClientSecret Secret `env:"KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET"`
	// Scope asked for with OAUTHBEARER, separated by spaces.
	OAuthScope string `env:"KAFKA_SASL_OAUTHBEARER_SCOPE"`
	// SASL extensions for OAUTHBEARER, key=value separated by commas.
	OAuthExtensions string `env:"KAFKA_SASL_OAUTHBEARER_EXTENSIONS"`
	// PEM file with the authorities that may sign the brokers' certificates.
	// Defaults to the system's.
	SSLCALocation string `env:"KAFKA_SSL_CA_LOCATION"`
	// PEM file with the client's certificate, for mutual TLS.
	SSLCertificateLocation string `env:"KAFKA_SSL_CERTIFICATE_LOCATION"`
	// PEM file with the client's key.
	SSLKeyLocation string `env:"KAFKA_SSL_KEY_LOCATION"`
	// Password of the client's key.
	SSLKeyPassword Secret `env:"KAFKA_SSL_KEY_PASSWORD"`
	// https checks the broker's host name against its certificate, none does not.
	// Defaults to https.
	SSLEndpointIdentification string `env:"KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM"`
	// Compression of produced batches: none, gzip, snappy, lz4 or zstd. Defaults to
	// snappy.
	Compression string `env:"KAFKA_COMPRESSION_TYPE"`
	// Copies of a created topic, 1 to 32767. Defaults to what the brokers are set
	// to, or as many as there are brokers, at most 3.
	ReplicationFactor int `env:"KAFKA_TOPIC_REPLICATION_FACTOR"`
	// How keys choose partitions: consistent_random (librdkafka's default: CRC32
	// of the key, random without one), murmur2_random (Java's), fnv1a_random
	// (sarama's), round_robin (ignores keys, keeps no order). Producers of one
	// topic should agree. Defaults to consistent_random.
	Partitioner string `env:"KAFKA_PARTITIONER"`
	// How a group's members share partitions: cooperative-sticky, sticky, range,
	// roundrobin, or several of the last three separated by commas, preferred
	// first. Members of one group must know a common one: beside Python members
	// use range,roundrobin, librdkafka's default. Defaults to cooperative-sticky.
	GroupStrategy string `env:"KAFKA_GROUP_STRATEGY"`
}
