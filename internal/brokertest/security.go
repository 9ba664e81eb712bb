//go:build unix

package brokertest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aura360/eventbus/internal/brokertest/local"
)

// What the SASL listeners accept, with PLAIN and both SCRAM mechanisms.
const (
	KafkaUser     = local.User
	KafkaPassword = local.Password
)

// KafkaSecurity is where a real Kafka listens with encryption or
// authentication, and what a client needs there.
type KafkaSecurity struct {
	SSL           string // server certificate only
	MTLS          string // client certificate required
	SASLPlaintext string // PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER
	SASLSSL       string // the same, encrypted

	CA         string // PEM file: the authority of all certificates
	ClientCert string // PEM file: a client certificate of that authority
	ClientKey  string // PEM file: its key
	OtherCert  string // PEM file: a client certificate of another authority
	OtherKey   string // PEM file: its key

	certs *local.Certs
}

// KafkaSecure returns the listeners of the real Kafka that scripts/brokers env
// told, or else skips the test.
func KafkaSecure(t testing.TB) *KafkaSecurity {
	t.Helper()
	dir := os.Getenv("EVENTBUS_TEST_CERTS")
	if dir == "" {
		lack(t, "kafka", "EVENTBUS_TEST_CERTS is not set: see scripts/brokers")
	}
	s := securityOf(nil, &local.Certs{Dir: dir})
	s.SSL = os.Getenv("EVENTBUS_TEST_KAFKA_SSL")
	s.MTLS = os.Getenv("EVENTBUS_TEST_KAFKA_MTLS")
	s.SASLPlaintext = os.Getenv("EVENTBUS_TEST_KAFKA_SASL_PLAINTEXT")
	s.SASLSSL = os.Getenv("EVENTBUS_TEST_KAFKA_SASL_SSL")
	return s
}

func securityOf(ports map[local.Listener]int, certs *local.Certs) *KafkaSecurity {
	return &KafkaSecurity{
		SSL:           local.Addr(ports[local.SSL]),
		MTLS:          local.Addr(ports[local.MTLS]),
		SASLPlaintext: local.Addr(ports[local.SASLPlaintext]),
		SASLSSL:       local.Addr(ports[local.SASLSSL]),
		CA:            certs.Path(local.CACert),
		ClientCert:    certs.Path(local.ClientCert),
		ClientKey:     certs.Path(local.ClientKey),
		OtherCert:     certs.Path(local.OtherCert),
		OtherKey:      certs.Path(local.OtherKey),
		certs:         certs,
	}
}

// TLS is a client configuration that trusts the broker; with client, it shows
// the client certificate.
func (s *KafkaSecurity) TLS(t testing.TB, client bool) *tls.Config {
	t.Helper()
	cfg, err := s.certs.TLS(client)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// Token signs a token that the OAUTHBEARER listeners accept for life.
func (s *KafkaSecurity) Token(t testing.TB, subject string, life time.Duration) string {
	t.Helper()
	key, err := s.certs.SigningKey()
	if err != nil {
		t.Fatal(err)
	}
	return token(t, key, subject, life)
}

// ForgedToken signs one with a key that the broker does not know.
func (s *KafkaSecurity) ForgedToken(t testing.TB, subject string, life time.Duration) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return token(t, key, subject, life)
}

func token(t testing.TB, key *rsa.PrivateKey, subject string, life time.Duration) string {
	t.Helper()
	s, err := local.Token(key, subject, life)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TokenServer is an OAuth 2.0 token endpoint (client credentials grant) whose
// tokens the OAUTHBEARER listeners accept.
type TokenServer struct {
	URL          string
	ClientID     string
	ClientSecret string

	requests atomic.Int64
	life     atomic.Int64
}

// TokenEndpoint starts one, on the loopback interface, until the test ends.
// Tokens live five minutes, unless SetLife says otherwise.
func (s *KafkaSecurity) TokenEndpoint(t testing.TB) *TokenServer {
	t.Helper()
	key, err := s.certs.SigningKey()
	if err != nil {
		t.Fatal(err)
	}
	e := &TokenServer{ClientID: "eventbus-client", ClientSecret: "eventbus-client-secret"}
	e.SetLife(5 * time.Minute)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.requests.Add(1)
		e.serve(w, r, key)
	}))
	t.Cleanup(srv.Close)
	e.URL = srv.URL + "/token"
	return e
}

// SetLife sets how long the tokens given out from now on are valid.
func (e *TokenServer) SetLife(d time.Duration) { e.life.Store(int64(d)) }

// Requests is how often the endpoint was asked.
func (e *TokenServer) Requests() int { return int(e.requests.Load()) }

// serve answers one token request (RFC 6749, section 4.4). The client's
// credentials may be in the Authorization header or in the form.
func (e *TokenServer) serve(w http.ResponseWriter, r *http.Request, key *rsa.PrivateKey) {
	reply := func(status int, body map[string]any) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	id, secret, ok := r.BasicAuth()
	if !ok {
		id, secret = r.FormValue("client_id"), r.FormValue("client_secret")
	}
	switch {
	case r.Method != http.MethodPost:
		reply(http.StatusMethodNotAllowed, map[string]any{"error": "invalid_request"})
	case r.FormValue("grant_type") != "client_credentials":
		reply(http.StatusBadRequest, map[string]any{"error": "unsupported_grant_type"})
	case id != e.ClientID || secret != e.ClientSecret:
		reply(http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
	default:
		life := time.Duration(e.life.Load())
		access, err := local.Token(key, id, life)
		if err != nil {
			reply(http.StatusInternalServerError, map[string]any{"error": "server_error"})
			return
		}
		reply(http.StatusOK, map[string]any{
			"access_token": access, "token_type": "Bearer", "expires_in": int(life.Seconds()),
		})
	}
}
