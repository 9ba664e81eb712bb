package bus

import (
	"errors"
	"fmt"
	"strings"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/kafkabus"
	"github.com/aura360/eventbus/bus/membus"
	"github.com/aura360/eventbus/bus/redisbus"
)

// openBackend makes the backend that a complete configuration names.
func openBackend(cfg Config) (driver.Backend, error) {
	native := cfg.Adapter == Native
	switch cfg.Backend {
	case Kafka:
		if native {
			return kafkabus.OpenNative(cfg.kafka())
		}
		return kafkabus.Open(cfg.kafka())
	case Redis:
		if native {
			return redisbus.OpenNative(cfg.redis())
		}
		return redisbus.Open(cfg.redis())
	case Memory:
		return membus.Open(membus.Config{Partitions: cfg.TopicPartitions, Logger: cfg.Logger}), nil
	case Disabled:
		return newDisabled(cfg.Logger), nil
	}
	return nil, fmt.Errorf("backend %q: want %s", cfg.Backend, strings.Join(backends, ", "))
}

func (c *Config) provision() driver.Provision {
	return driver.Provision{Create: *c.CreateTopics, Partitions: c.TopicPartitions, Retention: c.TopicRetention}
}

func (c *Config) kafka() kafkabus.Config {
	k := &c.Kafka
	return kafkabus.Config{
		BootstrapServers: k.BootstrapServers, SecurityProtocol: k.SecurityProtocol, SASLMechanism: k.SASLMechanism,
		SASLUsername: k.SASLUsername, SASLPassword: k.SASLPassword.Reveal(),
		SASLOAuthBearerTokenEndpointURL: k.OAuthTokenURL, SASLOAuthBearerClientID: k.OAuthClientID,
		SASLOAuthBearerClientSecret: k.OAuthClientSecret.Reveal(), SASLOAuthBearerScope: k.OAuthScope,
		SASLOAuthBearerExtensions: k.OAuthExtensions,
		SSLCALocation:             k.SSLCALocation, SSLCertificateLocation: k.SSLCertificateLocation,
		SSLKeyLocation: k.SSLKeyLocation, SSLKeyPassword: k.SSLKeyPassword.Reveal(),
		SSLEndpointIdentificationAlgorithm: k.SSLEndpointIdentification,
		ClientID:                           c.ServiceName, GroupStrategy: k.GroupStrategy, Partitioner: k.Partitioner,
		CompressionType: k.Compression, ReplicationFactor: k.ReplicationFactor,
		Provision: c.provision(), Log: c.Logger,
	}
}

func (c *Config) redis() redisbus.Config {
	r := &c.Redis
	return redisbus.Config{
		URL: r.URL.Reveal(), Username: r.Username, Password: r.Password.Reveal(),
		SentinelUsername: r.SentinelUsername, SentinelPassword: r.SentinelPassword.Reveal(),
		CAFile: r.TLSCAFile, CertFile: r.TLSCertFile, KeyFile: r.TLSKeyFile,
		ClientName: topicName(c.ServiceName), Namespace: c.Namespace, Provision: c.provision(), Log: c.Logger,
	}
}

// backendProblems checks what the chosen backend needs. What belongs to another
// one is not looked at: a deployment may carry settings for both.
func (c *Config) backendProblems() []error {
	switch c.Backend {
	case Kafka:
		if c.Kafka.BootstrapServers == "" {
			return []error{errors.New("KAFKA_BOOTSTRAP_SERVERS is not set: MESSAGING_BACKEND=kafka needs it, host:port separated by commas")}
		}
		if c.Kafka.SecurityProtocol == "" && c.Kafka.SASLUsername != "" {
			c.Kafka.SecurityProtocol = "SASL_SSL"
		}
		if err := c.kafka().Validate(); err != nil {
			return split(err)
		}
	case Redis:
		if c.Redis.URL == "" {
			return []error{errors.New("MESSAGING_REDIS_URL is not set: MESSAGING_BACKEND=redis needs it, such as redis://localhost:6379/0")}
		}
		if _, err := redisbus.ParseURL(c.Redis.URL.Reveal()); err != nil {
			return []error{fmt.Errorf("MESSAGING_REDIS_URL: %w", err)}
		}
	}
	return nil
}

// split returns the errors that errors.Join put together.
func split(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}
