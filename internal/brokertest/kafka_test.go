//go:build unix

package brokertest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/aura360/eventbus/internal/brokertest"
)

func TestKilledKafkaKeepsItsRecords(t *testing.T) {
	t.Parallel()
	k := brokertest.StartKafka(t, brokertest.KafkaOptions{})
	createTopic(t, k.Addr, "s", 1)
	produce(t, k.Addr, "s", "a")
	k.Nodes[0].Kill()
	k.Nodes[0].Start()
	produce(t, k.Addr, "s", "b")
	k.Nodes[0].Restart()
	if got := consume(t, k.Addr, "s", 2); got != "a b" {
		t.Errorf("after a kill and a restart: %q, want %q", got, "a b")
	}
}

func TestThreeKafkaNodesOutliveOne(t *testing.T) {
	t.Parallel()
	k := brokertest.StartKafka(t, brokertest.KafkaOptions{Nodes: 3})
	createTopic(t, k.Addr, "s", 3)
	produce(t, k.Addr, "s", "a")
	topics, err := kadm.NewClient(kafkaClient(t, k.Addr)).ListTopics(testContext(t), "s")
	if err != nil {
		t.Fatal(err)
	}
	leader := topics["s"].Partitions[0].Leader
	k.Nodes[leader-1].Kill()
	produce(t, k.Addr, "s", "b")
	if got := consume(t, k.Addr, "s", 2); got != "a b" {
		t.Errorf("after the leader's death: %q, want %q", got, "a b")
	}
}

func TestProxiedKafkaCanBeCutOff(t *testing.T) {
	t.Parallel()
	k := brokertest.StartKafka(t, brokertest.KafkaOptions{Proxied: true})
	createTopic(t, k.Addr, "s", 1)
	produce(t, k.Addr, "s", "a")
	k.Proxies[0].Cut()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := kafkaClient(t, k.Addr).Ping(ctx); err == nil {
		t.Error("cut off, yet it answers")
	}
	k.Proxies[0].Restore()
	produce(t, k.Addr, "s", "b")
	if got := consume(t, k.Addr, "s", 2); got != "a b" {
		t.Errorf("after the cut: %q, want %q", got, "a b")
	}
}

func TestTopicMayAskForLargeRecords(t *testing.T) {
	k := brokertest.RealKafka(t)
	topic := brokertest.Name(t, "large")
	createTopic(t, k.Addr, topic, 1)
	size := "34603008"
	_, err := kadm.NewClient(kafkaClient(t, k.Addr)).AlterTopicConfigs(testContext(t),
		[]kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &size}}, topic)
	if err != nil {
		t.Fatal(err)
	}
	cl := kafkaClient(t, k.Addr, kgo.ProducerBatchMaxBytes(34<<20-1<<16), kgo.BrokerMaxWriteBytes(64<<20),
		kgo.FetchMaxPartitionBytes(40<<20), kgo.FetchMaxBytes(40<<20),
		kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	value := bytes.Repeat([]byte{7}, 32<<20)
	if err := cl.ProduceSync(testContext(t), &kgo.Record{Topic: topic, Value: value}).FirstErr(); err != nil {
		t.Fatalf("a record of 32 MiB: %v", err)
	}
	fetched := cl.PollFetches(testContext(t)).Records()
	if len(fetched) != 1 || len(fetched[0].Value) != len(value) {
		t.Errorf("fetched %d records, want one of 32 MiB", len(fetched))
	}
}

func TestSecureListenersRefuseWrongCredentials(t *testing.T) {
	t.Parallel()
	t.Run("shared", func(t *testing.T) { testSecurity(t, brokertest.KafkaSecure(t)) })
	t.Run("throw-away", func(t *testing.T) {
		testSecurity(t, brokertest.StartKafka(t, brokertest.KafkaOptions{Secure: true}).Security)
	})
}

func testSecurity(t *testing.T, s *brokertest.KafkaSecurity) {
	stranger, err := tls.LoadX509KeyPair(s.OtherCert, s.OtherKey)
	if err != nil {
		t.Fatal(err)
	}
	trust := func(client *tls.Certificate) kgo.Opt {
		cfg := s.TLS(t, false)
		if client != nil {
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return client, nil }
		}
		return kgo.DialTLSConfig(cfg)
	}
	try := func(name, addr string, ok bool, opts ...kgo.Opt) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		opts = append(opts, kgo.RequestRetries(0), kgo.DialTimeout(5*time.Second))
		if err := kafkaClient(t, addr, opts...).Ping(ctx); (err == nil) != ok {
			t.Errorf("%s: accepted %v, want %v (%v)", name, err == nil, ok, err)
		}
	}

	try("TLS", s.SSL, true, trust(nil))
	try("TLS, unknown authority", s.SSL, false, kgo.DialTLSConfig(&tls.Config{MinVersion: tls.VersionTLS12}))
	try("TLS, client speaks plain", s.SSL, false)
	try("mutual TLS", s.MTLS, true, kgo.DialTLSConfig(s.TLS(t, true)))
	try("mutual TLS, no certificate", s.MTLS, false, trust(nil))
	try("mutual TLS, a stranger's certificate", s.MTLS, false, trust(&stranger))

	user, right := brokertest.KafkaUser, brokertest.KafkaPassword
	token := func(token string) sasl.Mechanism { return oauth.Auth{Token: token}.AsMechanism() }
	for _, listener := range []struct {
		name, addr string
		opts       []kgo.Opt
	}{
		{"SASL_PLAINTEXT", s.SASLPlaintext, nil},
		{"SASL_SSL", s.SASLSSL, []kgo.Opt{trust(nil)}},
	} {
		for _, c := range []struct {
			name string
			sasl sasl.Mechanism
			ok   bool
		}{
			{"PLAIN", plain.Auth{User: user, Pass: right}.AsMechanism(), true},
			{"PLAIN, wrong password", plain.Auth{User: user, Pass: "wrong"}.AsMechanism(), false},
			{"SCRAM-SHA-256", scram.Auth{User: user, Pass: right}.AsSha256Mechanism(), true},
			{"SCRAM-SHA-256, wrong password", scram.Auth{User: user, Pass: "wrong"}.AsSha256Mechanism(), false},
			{"SCRAM-SHA-512", scram.Auth{User: user, Pass: right}.AsSha512Mechanism(), true},
			{"SCRAM-SHA-512, wrong user", scram.Auth{User: "nobody", Pass: right}.AsSha512Mechanism(), false},
			{"OAUTHBEARER", token(s.Token(t, "svc", time.Minute)), true},
			{"OAUTHBEARER, from the endpoint", token(fetchToken(t, s.TokenEndpoint(t))), true},
			{"OAUTHBEARER, expired", token(s.Token(t, "svc", -time.Hour)), false},
			{"OAUTHBEARER, forged", token(s.ForgedToken(t, "svc", time.Minute)), false},
		} {
			try(listener.name+" "+c.name, listener.addr, c.ok, append(listener.opts, kgo.SASL(c.sasl))...)
		}
		try(listener.name+" without credentials", listener.addr, false, listener.opts...)
	}
}

func TestTokenEndpointWantsTheClientsSecret(t *testing.T) {
	e := brokertest.KafkaSecure(t).TokenEndpoint(t)
	res, err := http.PostForm(e.URL, url.Values{
		"grant_type": {"client_credentials"}, "client_id": {e.ClientID}, "client_secret": {"wrong"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized || e.Requests() != 1 {
		t.Errorf("wrong secret: status %d after %d requests", res.StatusCode, e.Requests())
	}
}

func fetchToken(t *testing.T, e *brokertest.TokenServer) string {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}}
	req, err := http.NewRequestWithContext(testContext(t), http.MethodPost, e.URL, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(e.ClientID, e.ClientSecret)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var body struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(res.Body).Decode(&body); err != nil || body.Token == "" {
		t.Fatalf("token endpoint: status %d, %v", res.StatusCode, err)
	}
	return body.Token
}
