package kafkabus_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/kafkabus"
)

func TestZeroConfigNeedsOnlyServers(t *testing.T) {
	if err := (kafkabus.Config{BootstrapServers: "a:1, [::1]:9092"}).Validate(); err != nil {
		t.Error(err)
	}
	if _, err := kafkabus.Open(kafkabus.Config{}); err == nil || !strings.Contains(err.Error(), "KAFKA_BOOTSTRAP_SERVERS") {
		t.Errorf("Open: %v", err)
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	c := kafkabus.Config{
		BootstrapServers: "user:hunter2@host:1",
		SecurityProtocol: "SASL_PLAINTEXT", SASLMechanism: "OAUTHBEARER", SASLPassword: "hunter2",
		SASLOAuthBearerTokenEndpointURL: "ftp://x", SASLOAuthBearerExtensions: "auth=hunter2",
		SSLCALocation: "/nowhere", SSLEndpointIdentificationAlgorithm: "maybe",
		GroupStrategy: "cooperative-sticky,range,fair", Partitioner: "dice", CompressionType: "zip",
		MaxMessageBytes: 1, DeliveryTimeout: time.Hour, SocketTimeout: 1, SessionTimeout: 1, HeartbeatInterval: time.Hour,
		MaxPollInterval: 1, AutoCommitInterval: 1, ConnectTimeout: 2 * time.Hour, SocketConnectionSetupTimeout: 1,
		ReplicationFactor: -1, Provision: driver.Provision{Partitions: 2000, Retention: 1},
	}
	err := c.Validate()
	if err == nil {
		t.Fatal("no problem")
	}
	for _, want := range []string{
		"KAFKA_BOOTSTRAP_SERVERS: one entry is not host:port",
		"KAFKA_SASL_PASSWORD has no effect with KAFKA_SASL_MECHANISM=OAUTHBEARER",
		"KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL: want an http or https URL",
		"KAFKA_SASL_OAUTHBEARER_CLIENT_ID is not set",
		"KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET is not set",
		"KAFKA_SASL_OAUTHBEARER_EXTENSIONS: want name=value",
		"KAFKA_SSL_CA_LOCATION has no effect with KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT: want SSL or SASL_SSL",
		`KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM="maybe": want https or none`,
		`KAFKA_GROUP_STRATEGY="fair": want cooperative-sticky, range, roundrobin or sticky`,
		"cooperative-sticky cannot be mixed",
		`KAFKA_PARTITIONER="dice": want consistent_random, fnv1a_random, murmur2_random or round_robin`,
		`KAFKA_COMPRESSION_TYPE="zip": want gzip, lz4, none, snappy or zstd`,
		"KAFKA_MESSAGE_MAX_BYTES=1: want 1024 to",
		"KAFKA_DELIVERY_TIMEOUT=1h0m0s: want 100ms to 15m0s",
		"KAFKA_CONNECT_TIMEOUT=", "KAFKA_SOCKET_TIMEOUT=", "KAFKA_SOCKET_CONNECTION_SETUP_TIMEOUT=",
		"KAFKA_SESSION_TIMEOUT=", "KAFKA_HEARTBEAT_INTERVAL=", "KAFKA_MAX_POLL_INTERVAL=", "KAFKA_AUTO_COMMIT_INTERVAL=",
		"KAFKA_TOPIC_PARTITIONS=2000: want 1 to 1000", "KAFKA_TOPIC_RETENTION=", "KAFKA_TOPIC_REPLICATION_FACTOR=-1",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a secret is in: %v", err)
	}
}

func TestValidateCredentials(t *testing.T) {
	dir := t.TempDir()
	notPEM := filepath.Join(dir, "not.pem")
	if err := os.WriteFile(notPEM, []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]kafkabus.Config{
		"KAFKA_SASL_USERNAME (or KAFKA_API_KEY) is not set: KAFKA_SASL_MECHANISM=PLAIN needs it":            {SecurityProtocol: "SASL_SSL", SASLPassword: "hunter2"},
		"KAFKA_SASL_PASSWORD (or KAFKA_API_SECRET) is not set: KAFKA_SASL_MECHANISM=SCRAM-SHA-256 needs it": {SecurityProtocol: "SASL_SSL", SASLMechanism: "SCRAM-SHA-256", SASLUsername: "u"},
		`KAFKA_SASL_MECHANISM="GSSAPI": want PLAIN`:                                                         {SecurityProtocol: "SASL_SSL", SASLMechanism: "GSSAPI"},
		`KAFKA_SECURITY_PROTOCOL="TLS": want PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL`:                    {SecurityProtocol: "TLS"},
		`KAFKA_SASL_MECHANISM="PLAIN" has no effect`:                                                        {SASLMechanism: "PLAIN"},
		"KAFKA_SASL_PASSWORD has no effect with KAFKA_SECURITY_PROTOCOL=SSL":                                {SecurityProtocol: "SSL", SASLPassword: "hunter2"},
		"KAFKA_SSL_CERTIFICATE_LOCATION and KAFKA_SSL_KEY_LOCATION: want both or none":                      {SecurityProtocol: "SSL", SSLKeyLocation: notPEM},
		"KAFKA_SSL_CA_LOCATION: open ":                                                                      {SecurityProtocol: "SSL", SSLCALocation: filepath.Join(dir, "none")},
		"not.pem holds no PEM certificate":                                                                  {SecurityProtocol: "SSL", SSLCALocation: notPEM},
		"KAFKA_SSL_CERTIFICATE_LOCATION, KAFKA_SSL_KEY_LOCATION: tls:":                                      {SecurityProtocol: "SSL", SSLCertificateLocation: notPEM, SSLKeyLocation: notPEM},
		"KAFKA_SSL_KEY_PASSWORD has no effect without KAFKA_SSL_KEY_LOCATION":                               {SecurityProtocol: "SSL", SSLKeyPassword: "hunter2"},
		`KAFKA_GROUP_STRATEGY=","`:                                                                          {GroupStrategy: ","},
	} {
		c.BootstrapServers = "h:1"
		err := c.Validate()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a secret is in: %v", err)
		}
	}
}

func TestEncryptedKeysAreRead(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("needs openssl")
	}
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "c"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, plainKey := write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", pkcs8)
	for name, args := range map[string][]string{
		"aes256":      {"pkcs8", "-topk8", "-v2", "aes-256-cbc"},
		"aes128-sha1": {"pkcs8", "-topk8", "-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA1"},
		"sha512":      {"pkcs8", "-topk8", "-v2", "aes-192-cbc", "-v2prf", "hmacWithSHA512"},
		"old":         {"ec", "-aes128"},
	} {
		out := filepath.Join(dir, name+".pem")
		cmd := exec.CommandContext(t.Context(), openssl, append(args, "-in", plainKey, "-out", out, "-passout", "pass:open sesame")...)
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, b)
		}
		c := kafkabus.Config{BootstrapServers: "h:1", SecurityProtocol: "SSL", SSLCertificateLocation: cert, SSLKeyLocation: out}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "KAFKA_SSL_KEY_PASSWORD is not set") {
			t.Errorf("%s without a password: %v", name, err)
		}
		c.SSLKeyPassword = "hunter2"
		if err := c.Validate(); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s with a wrong password: %v", name, err)
		}
		c.SSLKeyPassword = "open sesame"
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := write("bad.pem", "ENCRYPTED PRIVATE KEY", pkcs8)
	c := kafkabus.Config{BootstrapServers: "h:1", SecurityProtocol: "SSL", SSLCertificateLocation: cert, SSLKeyLocation: bad, SSLKeyPassword: "x"}
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "PBES2") {
		t.Errorf("no PBES2: %v", err)
	}
}
