//go:build unix

package local

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"
)

// What the broker's OAUTHBEARER listeners demand of a token, and the files the
// keys are in.
const (
	OAuthIssuer   = "https://issuer.eventbus.test"
	OAuthAudience = "eventbus"
	OAuthKey      = "oauth-key.pem"
	oauthJWKS     = "oauth-jwks.json"
	oauthKeyID    = "eventbus-test"
)

// MakeOAuthKey adds a token-signing key to the folder, and the JSON Web Key Set
// a broker checks tokens with. Keys that are there already are kept.
func (c *Certs) MakeOAuthKey() error {
	if _, err := os.Stat(c.Path(oauthJWKS)); err == nil {
		return nil
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	set, err := json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "RSA", "use": "sig", "alg": "RS256", "kid": oauthKeyID,
		"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
		"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
	}}})
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(c.Path(OAuthKey), pemBlock("PRIVATE KEY", pkcs8), 0o600),
		os.WriteFile(c.Path(oauthJWKS), set, 0o644))
}

// SigningKey reads the folder's token-signing key.
func (c *Certs) SigningKey() (*rsa.PrivateKey, error) {
	b, err := os.ReadFile(c.Path(OAuthKey))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", c.Path(OAuthKey))
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T, not an RSA key", c.Path(OAuthKey), key)
	}
	return signer, nil
}

// Token signs a JSON Web Token (RS256) for subject, valid for life from now.
func Token(key *rsa.PrivateKey, subject string, life time.Duration) (string, error) {
	now := time.Now()
	head, err := json.Marshal(map[string]string{"alg": "RS256", "typ": "JWT", "kid": oauthKeyID})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": OAuthIssuer, "aud": OAuthAudience, "sub": subject, "scope": "kafka",
		"iat": now.Add(-time.Second).Unix(), "exp": now.Add(life).Unix(),
	})
	if err != nil {
		return "", err
	}
	enc := base64.RawURLEncoding
	body := enc.EncodeToString(head) + "." + enc.EncodeToString(claims)
	sum := sha256.Sum256([]byte(body))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		return "", err
	}
	return body + "." + enc.EncodeToString(sig), nil
}
