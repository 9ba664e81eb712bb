//go:build unix

package kafkabus_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/bus/kafkabus"
	"github.com/aura360/eventbus/internal/brokertest"
)

const wrongSecret = "hunter2-wrong"

func TestSecurityModes(t *testing.T) {
	builds(t, func(t *testing.T, open opener) {
		k := brokertest.KafkaSecure(t)
		tokens := k.TokenEndpoint(t)
		user := func(mechanism, password string) kafkabus.Config {
			return kafkabus.Config{SASLMechanism: mechanism, SASLUsername: brokertest.KafkaUser, SASLPassword: password}
		}
		oauth := func(secret string) kafkabus.Config {
			return kafkabus.Config{
				SASLMechanism: "OAUTHBEARER", SASLOAuthBearerTokenEndpointURL: tokens.URL,
				SASLOAuthBearerClientID: tokens.ClientID, SASLOAuthBearerClientSecret: secret,
			}
		}
		type mode struct {
			name      string
			right     kafkabus.Config
			wrong     kafkabus.Config
			wrongSays string
		}
		modes := []mode{
			{name: "SSL", right: kafkabus.Config{BootstrapServers: k.SSL}, wrong: kafkabus.Config{BootstrapServers: k.SSL, SSLCALocation: k.OtherCert}, wrongSays: "certificate"},
			{
				name:      "mTLS",
				right:     kafkabus.Config{BootstrapServers: k.MTLS, SSLCertificateLocation: k.ClientCert, SSLKeyLocation: k.ClientKey},
				wrong:     kafkabus.Config{BootstrapServers: k.MTLS, SSLCertificateLocation: k.OtherCert, SSLKeyLocation: k.OtherKey},
				wrongSays: "", // Java closes the connection, or says so in an alert that may be lost
			},
			{
				name:  "SSL without the host name",
				right: kafkabus.Config{BootstrapServers: k.SSL, SSLEndpointIdentificationAlgorithm: "none"},
				wrong: kafkabus.Config{BootstrapServers: k.SSL, SSLEndpointIdentificationAlgorithm: "none", SSLCALocation: k.OtherCert}, wrongSays: "certificate",
			},
		}
		for i := range modes {
			modes[i].right.SecurityProtocol, modes[i].wrong.SecurityProtocol = "SSL", "SSL"
		}
		for protocol, addr := range map[string]string{"SASL_PLAINTEXT": k.SASLPlaintext, "SASL_SSL": k.SASLSSL} {
			for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"} {
				m := mode{name: protocol + " " + mechanism, right: user(mechanism, brokertest.KafkaPassword), wrong: user(mechanism, wrongSecret), wrongSays: "uthentication failed"}
				if mechanism == "OAUTHBEARER" {
					m.right, m.wrong, m.wrongSays = oauth(tokens.ClientSecret), oauth(wrongSecret), "401 Unauthorized, invalid_client"
				}
				m.right.BootstrapServers, m.wrong.BootstrapServers = addr, addr
				m.right.SecurityProtocol, m.wrong.SecurityProtocol = protocol, protocol
				modes = append(modes, m)
			}
		}
		for _, m := range modes {
			for _, c := range []*kafkabus.Config{&m.right, &m.wrong} {
				c.Provision.Create = true
				if c.SSLCALocation == "" && strings.HasSuffix(c.SecurityProtocol, "SSL") {
					c.SSLCALocation = k.CA
				}
			}
			t.Run(m.name, func(t *testing.T) {
				b := open(t, m.right)
				if err := b.Ping(testContext(t)); err != nil {
					t.Fatal(err)
				}
				topic := brokertest.Name(t, "secure")
				publish(t, b, topic, msg("k", "hello"))
				if got := take(t, subscribe(t, subscriber(t, b, brokertest.Name(t, "g")), topic), 1); got[0] != "hello" {
					t.Errorf("got %q", got)
				}
			})
			t.Run(m.name+" wrong", func(t *testing.T) {
				t.Parallel()
				var log logs
				m.wrong.Log, m.wrong.ConnectTimeout = log.logger(), 2*time.Second
				b := open(t, m.wrong)
				err := b.Ping(testContext(t))
				if err == nil || !strings.Contains(err.Error(), m.wrongSays) {
					t.Errorf("Ping: %v, want %q", err, m.wrongSays)
				}
				perr := b.Publish(testContext(t), "any", msg("k", "x"))
				if r := driver.Results(perr, 1)[0]; r.Outcome != driver.Rejected || !strings.Contains(perr.Error(), driver.ErrUnavailable.Error()) {
					t.Errorf("Publish: %v", perr)
				}
				s := subscriber(t, b, "any")
				subscribe(t, s, "any")
				eventually(t, "State tells", func() bool { return s.State()["any"].LastError != "" })
				state := s.State()["any"]
				if state.Connected || !strings.Contains(state.LastError, m.wrongSays) {
					t.Errorf("State: %+v", state)
				}
				for what, text := range map[string]string{"Ping": err.Error(), "Publish": perr.Error(), "State": state.LastError, "the log": log.String()} {
					if strings.Contains(text, wrongSecret) {
						t.Errorf("a secret is in %s: %s", what, text)
					}
				}
			})
		}
	})
}

func TestATokenIsKeptAndRenewed(t *testing.T) {
	builds(t, func(t *testing.T, open opener) {
		k := brokertest.KafkaSecure(t)
		tokens := k.TokenEndpoint(t)
		cfg := kafkabus.Config{
			BootstrapServers: k.SASLPlaintext, SecurityProtocol: "SASL_PLAINTEXT", SASLMechanism: "OAUTHBEARER",
			SASLOAuthBearerTokenEndpointURL: tokens.URL, SASLOAuthBearerClientID: tokens.ClientID,
			SASLOAuthBearerClientSecret: tokens.ClientSecret, SASLOAuthBearerScope: "a b", SASLOAuthBearerExtensions: "logicalCluster=lkc-1",
			Provision: driver.Provision{Create: true},
		}
		b := open(t, cfg)
		topic := brokertest.Name(t, "tokens")
		publish(t, b, topic, msg("k", "1"))
		take(t, subscribe(t, subscriber(t, b, brokertest.Name(t, "g")), topic), 1)
		if n := tokens.Requests(); n > 2 { // oauth2 tries two ways to show the secret
			t.Errorf("%d requests for one token", n)
		}
		// One that expires within the margin is not kept for the next connection.
		tokens.SetLife(10 * time.Second)
		c := open(t, cfg)
		before := tokens.Requests()
		if err := c.Ping(testContext(t)); err != nil {
			t.Fatal(err)
		}
		publish(t, c, topic, msg("k", "2"))
		if n := tokens.Requests() - before; n < 2 {
			t.Errorf("%d requests for tokens that expire at once", n)
		}
	})
}

func TestTokenEndpointIsDown(t *testing.T) {
	builds(t, func(t *testing.T, open opener) {
		k := brokertest.KafkaSecure(t)
		b := open(t, kafkabus.Config{
			BootstrapServers: k.SASLPlaintext, SecurityProtocol: "SASL_PLAINTEXT", SASLMechanism: "OAUTHBEARER",
			SASLOAuthBearerTokenEndpointURL: "http://127.0.0.1:1/token", SASLOAuthBearerClientID: "id", SASLOAuthBearerClientSecret: wrongSecret,
		})
		ctx, cancel := context.WithTimeout(testContext(t), 20*time.Second)
		defer cancel()
		err := b.Ping(ctx)
		if err == nil || !strings.Contains(err.Error(), "get a token from KAFKA_SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL") || strings.Contains(err.Error(), wrongSecret) {
			t.Errorf("Ping: %v", err)
		}
	})
}
