package redisclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Settings are what is not in the URL, or goes before it.
type Settings struct {
	ClientName string // shown by CLIENT LIST

	// Credentials go before the URL's.
	Username, Password                 string
	SentinelUsername, SentinelPassword string

	// TLS needs a URL with rediss. CAFile (PEM) is trusted instead of the
	// system's authorities, CertFile and KeyFile are the client's certificate,
	// ServerName is checked instead of the host connected to.
	CAFile, CertFile, KeyFile, ServerName string

	// DialTimeout bounds connecting, Timeout each read and each write. The URL's
	// parameters go before them. Default to 5 s.
	DialTimeout, Timeout time.Duration
}

// Apply puts the settings into o.
func (o *Options) Apply(s Settings) error {
	files := s.CAFile != "" || s.CertFile != "" || s.KeyFile != ""
	if files && !o.tls {
		return errors.New("certificates are given, but the Redis URL is not one of TLS: use rediss instead of redis")
	}
	var conf *tls.Config
	if o.tls {
		var err error
		if conf, err = s.tlsConfig(); err != nil {
			return err
		}
		if conf.ServerName == "" && o.single != nil {
			conf.ServerName = o.single.TLSConfig.ServerName
		}
		// Behind Sentinels and in a Cluster each node is checked against its own
		// name, not that of the first host in the URL.
	}
	if s.DialTimeout <= 0 {
		s.DialTimeout = 5 * time.Second
	}
	if s.Timeout <= 0 {
		s.Timeout = 5 * time.Second
	}
	switch {
	case o.cluster != nil:
		applyCluster(o.cluster, &s, conf)
	case o.failover != nil:
		applyFailover(o.failover, &s, conf)
	default:
		applySingle(o.single, &s, conf)
	}
	return nil
}

func (s *Settings) tlsConfig() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.ServerName}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the authority's certificate: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the authority's certificate: no certificate (PEM) in %s", s.CAFile)
		}
	}
	if (s.CertFile == "") != (s.KeyFile == "") {
		return nil, errors.New("a client certificate needs both the certificate and its key")
	}
	if s.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the client certificate: %w", err)
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	return conf, nil
}

// What follows says the same three times, since go-redis has three types of
// options. RESP2 is enough for streams and spares the checks for push messages
// before each command; CLIENT SETINFO, CLIENT MAINT_NOTIFICATIONS and COMMAND
// are not sent.

func applySingle(o *redis.Options, s *Settings, conf *tls.Config) {
	o.ClientName = first(o.ClientName, s.ClientName)
	o.Username, o.Password = first(s.Username, o.Username), first(s.Password, o.Password)
	if conf != nil {
		o.TLSConfig = conf
	}
	o.MaxRetries, o.DialerRetries = -1, 1
	o.DialTimeout = first(o.DialTimeout, s.DialTimeout)
	o.ReadTimeout, o.WriteTimeout = first(o.ReadTimeout, s.Timeout), first(o.WriteTimeout, s.Timeout)
	o.ContextTimeoutEnabled = true
	o.Protocol, o.DisableIdentity, o.PipelinePoolSize = 2, true, -1
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

func applyCluster(o *redis.ClusterOptions, s *Settings, conf *tls.Config) {
	o.ClientName = first(o.ClientName, s.ClientName)
	o.Username, o.Password = first(s.Username, o.Username), first(s.Password, o.Password)
	if conf != nil {
		o.TLSConfig = conf
	}
	o.MaxRetries, o.DialerRetries = -1, 1
	o.DialTimeout = first(o.DialTimeout, s.DialTimeout)
	o.ReadTimeout, o.WriteTimeout = first(o.ReadTimeout, s.Timeout), first(o.WriteTimeout, s.Timeout)
	o.ContextTimeoutEnabled = true
	o.Protocol, o.DisableIdentity, o.PipelinePoolSize = 2, true, -1
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	o.DisableRoutingPolicies = true
	// A stream is one slot and is read on its master.
	o.ReadOnly, o.RouteByLatency, o.RouteRandomly = false, false, false
}

func applyFailover(o *redis.FailoverOptions, s *Settings, conf *tls.Config) {
	o.ClientName = first(o.ClientName, s.ClientName)
	o.Username, o.Password = first(s.Username, o.Username), first(s.Password, o.Password)
	o.SentinelUsername = first(s.SentinelUsername, o.SentinelUsername)
	o.SentinelPassword = first(s.SentinelPassword, o.SentinelPassword)
	if conf != nil {
		o.TLSConfig = conf
	}
	o.MaxRetries, o.DialerRetries = -1, 1
	o.DialTimeout = first(o.DialTimeout, s.DialTimeout)
	o.ReadTimeout, o.WriteTimeout = first(o.ReadTimeout, s.Timeout), first(o.WriteTimeout, s.Timeout)
	o.ContextTimeoutEnabled = true
	o.Protocol, o.DisableIdentity, o.PipelinePoolSize = 2, true, -1
	o.ReplicaOnly, o.RouteByLatency, o.RouteRandomly, o.UseDisconnectedReplicas = false, false, false, false
}

// New makes a client. It does no I/O.
func (o *Options) New() redis.UniversalClient {
	// Copies: go-redis writes its defaults into what it is given.
	switch {
	case o.cluster != nil:
		c := *o.cluster
		return redis.NewClusterClient(&c)
	case o.failover != nil:
		c := *o.failover
		return redis.NewFailoverClient(&c)
	}
	c := *o.single
	return redis.NewClient(&c)
}

// NewSingleConn makes a client of one server that has one connection. It does no
// I/O.
func (o *Options) NewSingleConn() redis.UniversalClient {
	c := *o.single
	c.PoolSize, c.MinIdleConns, c.MaxActiveConns = 1, 0, 1
	return redis.NewClient(&c)
}

// first is the first of a and b that is not zero.
func first[T comparable](a, b T) T {
	var zero T
	if a != zero {
		return a
	}
	return b
}
