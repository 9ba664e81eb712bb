package kafkabus

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Validate returns everything that is wrong with c, joined, or nil. It names the
// variables and the allowed values, never a secret. It reads the SSL files.
func (c Config) Validate() error {
	v := &problems{}
	c = c.withDefaults()
	v.servers(c.BootstrapServers)
	v.oneOf(envProtocol, c.SecurityProtocol, "PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
	v.sasl(c)
	v.ssl(c)
	v.strategy(c.GroupStrategy)
	v.oneOf(envPartitioner, c.Partitioner, names(hashes)...)
	v.oneOf(envCompression, c.CompressionType, names(codecs)...)
	v.numbers(c)
	return errors.Join(v.list...)
}

// problems collects what is wrong.
type problems struct {
	list []error
}

func (v *problems) add(format string, args ...any) {
	v.list = append(v.list, fmt.Errorf(format, args...))
}

func (v *problems) oneOf(name, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	n := len(allowed) - 1
	v.add("%s=%q: want %s or %s", name, value, strings.Join(allowed[:n], ", "), allowed[n])
}

func (v *problems) servers(list string) {
	if strings.TrimSpace(list) == "" {
		v.add("%s is not set: want host:port, several separated by commas", envBootstrap)
		return
	}
	for _, s := range splitList(list) {
		host, port, err := net.SplitHostPort(s)
		n, perr := strconv.Atoi(port)
		if err != nil || host == "" || perr != nil || n < 1 || n > 65535 || strings.ContainsAny(host, "/@ ") {
			// The value is not shown: someone may have put user:password@ into it.
			v.add("%s: one entry is not host:port: want for example broker-1:9092,broker-2:9092", envBootstrap)
			return
		}
	}
}

// alias is the other name that package bus reads a variable by.
var alias = map[string]string{envUsername: "KAFKA_API_KEY", envPassword: "KAFKA_API_SECRET"}

func withAlias(name string) string {
	if a := alias[name]; a != "" {
		return name + " (or " + a + ")"
	}
	return name
}

func (v *problems) sasl(c Config) {
	credentials := []struct{ name, value string }{
		{envUsername, c.SASLUsername},
		{envPassword, c.SASLPassword},
		{envTokenURL, c.SASLOAuthBearerTokenEndpointURL},
		{envOAuthID, c.SASLOAuthBearerClientID},
		{envOAuthSecret, c.SASLOAuthBearerClientSecret},
		{envOAuthScope, c.SASLOAuthBearerScope},
		{envOAuthExt, c.SASLOAuthBearerExtensions},
	}
	if !c.sasl() {
		if c.SASLMechanism != "" {
			v.add("%s=%q has no effect with %s=%s: want SASL_PLAINTEXT or SASL_SSL", envMechanism, c.SASLMechanism, envProtocol, c.SecurityProtocol)
		}
		for _, f := range credentials {
			if f.value != "" {
				v.add("%s has no effect with %s=%s: want SASL_PLAINTEXT or SASL_SSL", f.name, envProtocol, c.SecurityProtocol)
			}
		}
		return
	}
	needs, other := credentials[:2], credentials[2:]
	switch c.SASLMechanism {
	case "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
	case "OAUTHBEARER":
		needs, other = credentials[2:5], credentials[:2]
	default:
		v.oneOf(envMechanism, c.SASLMechanism, "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
		return
	}
	for _, f := range needs {
		if f.value == "" {
			v.add("%s is not set: %s=%s needs it", withAlias(f.name), envMechanism, c.SASLMechanism)
		}
	}
	for _, f := range other {
		if f.value != "" {
			v.add("%s has no effect with %s=%s", f.name, envMechanism, c.SASLMechanism)
		}
	}
	if c.SASLMechanism != "OAUTHBEARER" {
		return
	}
	if s := c.SASLOAuthBearerTokenEndpointURL; s != "" {
		u, err := url.Parse(s)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
			v.add("%s: want an http or https URL without user and password", envTokenURL)
		}
	}
	if _, err := parseExtensions(c.SASLOAuthBearerExtensions); err != nil {
		v.add("%s: %w", envOAuthExt, err)
	}
}

func (v *problems) ssl(c Config) {
	v.oneOf(envEndpointID, c.SSLEndpointIdentificationAlgorithm, "https", "none")
	files := []struct{ name, value string }{
		{envCA, c.SSLCALocation},
		{envCert, c.SSLCertificateLocation},
		{envKey, c.SSLKeyLocation},
		{envKeyPassword, c.SSLKeyPassword},
	}
	if !c.ssl() {
		for _, f := range files {
			if f.value != "" {
				v.add("%s has no effect with %s=%s: want SSL or SASL_SSL", f.name, envProtocol, c.SecurityProtocol)
			}
		}
		return
	}
	if (c.SSLCertificateLocation == "") != (c.SSLKeyLocation == "") {
		v.add("%s and %s: want both or none", envCert, envKey)
		return
	}
	if c.SSLKeyPassword != "" && c.SSLKeyLocation == "" {
		v.add("%s has no effect without %s", envKeyPassword, envKey)
	}
	if _, err := c.tlsConfig(); err != nil {
		v.list = append(v.list, err)
	}
}

func (v *problems) strategy(list string) {
	var cooperative, eager bool
	for _, name := range splitList(list) {
		if _, ok := strategies[name]; !ok {
			v.oneOf(envStrategy, name, names(strategies)...)
		}
		if name == "cooperative-sticky" {
			cooperative = true
		} else {
			eager = true
		}
	}
	if cooperative && eager {
		v.add("%s=%q: cooperative-sticky cannot be mixed with others: want it alone, or range,roundrobin beside Python consumers", envStrategy, list)
	}
	if !cooperative && !eager {
		v.oneOf(envStrategy, list, names(strategies)...)
	}
}

func (v *problems) numbers(c Config) {
	ints := func(name string, n, lo, hi int) {
		if n < lo || n > hi {
			v.add("%s=%d: want %d to %d", name, n, lo, hi)
		}
	}
	durations := func(name string, d, lo, hi time.Duration) {
		if d < lo || d > hi {
			v.add("%s=%v: want %v to %v", name, d, lo, hi)
		}
	}
	ints(envMaxBytes, c.MaxMessageBytes, 1<<10, maxMaxMessageBytes)
	ints(envPartitions, c.Provision.Partitions, 1, 1000)
	ints(envReplication, c.ReplicationFactor, 0, 32)
	durations(envRetention, c.Provision.Retention, time.Second, 100*365*24*time.Hour)
	durations(envDelivery, c.DeliveryTimeout, 100*time.Millisecond, 15*time.Minute)
	durations(envConnect, c.ConnectTimeout, time.Millisecond, c.DeliveryTimeout)
	durations(envSetup, c.SocketConnectionSetupTimeout, 100*time.Millisecond, 5*time.Minute)
	durations(envSocket, c.SocketTimeout, 500*time.Millisecond, 5*time.Minute)
	durations(envSession, c.SessionTimeout, time.Second, 30*time.Minute)
	durations(envHeartbeat, c.HeartbeatInterval, 10*time.Millisecond, c.SessionTimeout/3)
	durations(envMaxPoll, c.MaxPollInterval, time.Second, 24*time.Hour)
	durations(envCommit, c.AutoCommitInterval, 10*time.Millisecond, time.Hour)
}

// splitList splits at commas and drops what is empty.
func splitList(s string) []string {
	var list []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

// parseExtensions reads name=value,name=value (RFC 7628, section 3.1).
func parseExtensions(s string) (map[string]string, error) {
	list := splitList(s)
	if len(list) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(list))
	for _, part := range list {
		name, value, ok := strings.Cut(part, "=")
		if !ok || name == "" || name == "auth" || strings.ContainsFunc(name, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		}) {
			return nil, errors.New("want name=value,name=value, names of letters and not auth")
		}
		m[name] = value
	}
	return m, nil
}
