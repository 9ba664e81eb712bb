//go:build unix

package local

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Files in a folder of test certificates.
const (
	CACert      = "ca.pem"
	ServerCert  = "server.pem"
	ServerKey   = "server-key.pem"
	ClientCert  = "client.pem"
	ClientKey   = "client-key.pem"
	OtherCert   = "other.pem"     // a client certificate of an authority nobody trusts
	OtherKey    = "other-key.pem" // its key
	serverStore = "server-store.pem"
)

// Certs is a folder with a certificate authority of its own, a server
// certificate for localhost and 127.0.0.1, and a client certificate.
type Certs struct{ Dir string }

// Path is the path of one of the files in the folder.
func (c *Certs) Path(name string) string { return filepath.Join(c.Dir, name) }

// MakeCerts fills dir with new certificates, valid for a year. If it already
// holds some they are kept.
func MakeCerts(dir string) (*Certs, error) {
	c := &Certs{Dir: dir}
	if _, err := os.Stat(c.Path(serverStore)); err == nil {
		return c, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	ca, err := newAuthority("eventbus test CA")
	if err != nil {
		return nil, err
	}
	stranger, err := newAuthority("some other CA")
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		os.WriteFile(c.Path(CACert), ca.pem, 0o644),
		ca.issue(c.Path(ServerCert), c.Path(ServerKey), &x509.Certificate{
			Subject:     pkix.Name{CommonName: "localhost"},
			DNSNames:    []string{"localhost"},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}),
		ca.issue(c.Path(ClientCert), c.Path(ClientKey), &x509.Certificate{
			Subject:     pkix.Name{CommonName: "eventbus-client"},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}),
		stranger.issue(c.Path(OtherCert), c.Path(OtherKey), &x509.Certificate{
			Subject:     pkix.Name{CommonName: "stranger"},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("make certificates in %s: %w", dir, err)
	}
	key, err := os.ReadFile(c.Path(ServerKey))
	if err != nil {
		return nil, err
	}
	cert, err := os.ReadFile(c.Path(ServerCert))
	if err != nil {
		return nil, err
	}
	// Kafka reads key and certificate from one file. Written last: it marks the
	// folder complete.
	return c, os.WriteFile(c.Path(serverStore), append(key, cert...), 0o600)
}

// TLS is a client's configuration that trusts the folder's authority and, with
// client, shows the client certificate.
func (c *Certs) TLS(client bool) (*tls.Config, error) {
	ca, err := os.ReadFile(c.Path(CACert))
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	if !cfg.RootCAs.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", c.Path(CACert))
	}
	if client {
		pair, err := tls.LoadX509KeyPair(c.Path(ClientCert), c.Path(ClientKey))
		if err != nil {
			return nil, err
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := sign(tmpl, tmpl, key, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key, pem: pemBlock("CERTIFICATE", der)}, nil
}

// issue writes a certificate after tmpl and its new key as PEM files.
func (a *authority) issue(certFile, keyFile string, tmpl *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := sign(tmpl, a.cert, key, a.key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(certFile, pemBlock("CERTIFICATE", der), 0o644),
		os.WriteFile(keyFile, pemBlock("PRIVATE KEY", pkcs8), 0o600))
}

func sign(tmpl, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	tmpl.SerialNumber = serial
	tmpl.NotBefore = time.Now().Add(-time.Hour)
	tmpl.NotAfter = time.Now().AddDate(1, 0, 0)
	return x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
