package kafkabus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// tlsConfig reads the SSL files. Its errors name the variable and the file.
func (c Config) tlsConfig() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.SSLCALocation != "" {
		b, err := os.ReadFile(c.SSLCALocation)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", envCA, err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s: %s holds no PEM certificate", envCA, c.SSLCALocation)
		}
	}
	if c.SSLCertificateLocation != "" {
		certPEM, err := os.ReadFile(c.SSLCertificateLocation)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", envCert, err)
		}
		keyPEM, err := c.keyPEM()
		if err != nil {
			return nil, err
		}
		cert, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w", envCert, envKey, err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	if c.SSLEndpointIdentificationAlgorithm == "none" {
		// As librdkafka's none: the host name is not checked, the chain is.
		cfg.InsecureSkipVerify = true //nolint:gosec // verified below
		roots := cfg.RootCAs
		cfg.VerifyConnection = func(s tls.ConnectionState) error {
			opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
			for _, cert := range s.PeerCertificates[1:] {
				opts.Intermediates.AddCert(cert)
			}
			_, err := s.PeerCertificates[0].Verify(opts)
			return err
		}
	}
	return cfg, nil
}

// keyPEM reads the client's key, decrypted.
func (c Config) keyPEM() ([]byte, error) {
	b, err := os.ReadFile(c.SSLKeyLocation)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", envKey, err)
	}
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return b, nil // not encrypted, or not a key: X509KeyPair tells
		}
		old := x509.IsEncryptedPEMBlock(block) //nolint:staticcheck // what older OpenSSL wrote, librdkafka reads it
		if !old && block.Type != "ENCRYPTED PRIVATE KEY" {
			continue
		}
		if c.SSLKeyPassword == "" {
			return nil, fmt.Errorf("%s is not set: %s is encrypted", envKeyPassword, c.SSLKeyLocation)
		}
		var der []byte
		kind := "PRIVATE KEY"
		if old {
			kind = block.Type
			der, err = x509.DecryptPEMBlock(block, []byte(c.SSLKeyPassword)) //nolint:staticcheck // see above
		} else {
			der, err = decryptPKCS8(block.Bytes, c.SSLKeyPassword)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: decrypt %s with %s: %w", envKey, c.SSLKeyLocation, envKeyPassword, err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), nil
	}
}

// security sets the SASL part of cfg. TLS is the wire's business: see wire.go.
func (b *Backend) security(cfg *sarama.Config) {
	c := b.cfg
	if !c.sasl() {
		return
	}
	s := &cfg.Net.SASL
	s.Enable = true
	s.Mechanism = sarama.SASLMechanism(c.SASLMechanism)
	s.User, s.Password = c.SASLUsername, c.SASLPassword
	switch c.SASLMechanism {
	case "SCRAM-SHA-256":
		s.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA256} }
	case "SCRAM-SHA-512":
		s.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{hash: scram.SHA512} }
	case "OAUTHBEARER":
		s.User, s.Password = "", ""
		s.TokenProvider = b.tokens
	}
}

// scramClient is one SCRAM conversation (RFC 5802).
type scramClient struct {
	hash scram.HashGeneratorFcn
	conv *scram.ClientConversation
}

func (s *scramClient) Begin(user, password, authzID string) error {
	client, err := s.hash.NewClient(user, password, authzID)
	if err != nil {
		return errors.New("SCRAM: the user name or password has characters that SASLprep forbids")
	}
	s.conv = client.NewConversation()
	return nil
}

func (s *scramClient) Step(challenge string) (string, error) { return s.conv.Step(challenge) }
func (s *scramClient) Done() bool                            { return s.conv.Done() }

// tokenProvider gets OAuth tokens, keeps one for all connections, and renews it
// before it expires.
type tokenProvider struct {
	source     oauth2.TokenSource
	transport  *http.Transport
	extensions map[string]string
}

const (
	tokenTimeout = 10 * time.Second
	tokenMargin  = 15 * time.Second // a token that expires sooner is not used any more
)

func newTokenProvider(ctx context.Context, c Config) *tokenProvider {
	// An own transport: its idle connections end with the backend.
	p := &tokenProvider{transport: http.DefaultTransport.(*http.Transport).Clone()}
	p.extensions, _ = parseExtensions(c.SASLOAuthBearerExtensions) // validated
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: p.transport, Timeout: tokenTimeout})
	cc := clientcredentials.Config{
		ClientID:     c.SASLOAuthBearerClientID,
		ClientSecret: c.SASLOAuthBearerClientSecret,
		TokenURL:     c.SASLOAuthBearerTokenEndpointURL,
		Scopes:       strings.Fields(c.SASLOAuthBearerScope),
	}
	p.source = oauth2.ReuseTokenSourceWithExpiry(nil, freshTokens{ctx, &cc}, tokenMargin)
	return p
}

// freshTokens asks the endpoint each time. (Config.TokenSource would keep a
// token until 10 s before its end, under the source that keeps it for less.)
type freshTokens struct {
	ctx context.Context //nolint:containedctx // the backend's life, as oauth2 wants it
	cc  *clientcredentials.Config
}

func (f freshTokens) Token() (*oauth2.Token, error) { return f.cc.Token(f.ctx) }

// Token implements sarama.AccessTokenProvider.
func (p *tokenProvider) Token() (*sarama.AccessToken, error) {
	t, err := p.source.Token()
	if err != nil {
		return nil, tokenError(err)
	}
	return &sarama.AccessToken{Token: t.AccessToken, Extensions: p.extensions}, nil
}

// tokenError leaves out the endpoint's answer, in which there could be anything.
func tokenError(err error) error {
	var re *oauth2.RetrieveError
	if errors.As(err, &re) {
		status := "an unexpected answer"
		if re.Response != nil {
			status = re.Response.Status
		}
		if re.ErrorCode != "" && len(re.ErrorCode) < 64 {
			status += ", " + re.ErrorCode
		}
		return fmt.Errorf("get a token from %s: %s: check %s and %s", envTokenURL, status, envOAuthID, envOAuthSecret)
	}
	return fmt.Errorf("get a token from %s: %w", envTokenURL, err)
}

func (p *tokenProvider) close() {
	if p != nil {
		p.transport.CloseIdleConnections()
	}
}
