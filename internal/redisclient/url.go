// Package redisclient makes go-redis clients that are safe to publish with, for
// the backends that live on Redis: one server, a Cluster or behind Sentinels,
// with the credentials and certificates there are.
//
// What it settles once: nothing is sent twice (go-redis repeats a command whose
// answer it did not get, three times by default), every wait is bounded, a
// connection is tried once per command rather than five times, no commands are
// sent that old or managed servers do not know, and a certificate is always
// checked. No error of this package contains a password.
package redisclient

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Options is where a Redis is and how to talk to it. It makes any number of
// clients.
type Options struct {
	// One of the three is set.
	single   *redis.Options
	cluster  *redis.ClusterOptions
	failover *redis.FailoverOptions
	tls      bool
}

// Forms names the URLs that Parse takes, for error messages.
const Forms = "redis://[user:password@]host:6379/0, rediss://... (TLS), unix:///path/to/socket, " +
	"redis+cluster://host:6379,host2:6379, redis+sentinel://host:26379,host2:26379/master-name/0"

// Parse reads a URL.
//
//	redis://user:password@host:6379/0       one server, database 0
//	rediss://...                            the same over TLS
//	unix://user:password@/path/to/socket?db=0
//	redis+cluster://user:password@host:6379,host2:6379
//	redis+sentinel://user:password@host:26379,host2:26379/master-name/0
//
// The last two have the forms rediss+cluster and rediss+sentinel for TLS. Beside
// them go-redis's own forms are understood: redis://host:6379?addr=host2:6379
// (or a list of hosts) is a Cluster, and redis://host:26379/0?master_name=name
// goes to Sentinels, where the user and password of the URL are the Sentinels'
// and the server's are parameters. In the form redis+sentinel it is the other
// way round: parameters sentinel_username and sentinel_password.
//
// Parameters such as dial_timeout, read_timeout and pool_size are go-redis's.
// skip_verify is refused: trust the server's authority instead.
func Parse(raw string) (*Options, error) {
	p, err := parse(raw)
	if err != nil {
		// A password that is not encoded may have ended up in any part of the
		// URL, so an error may be shown only if it is sure where it is.
		safe := strings.Count(raw, "@") == 0 || strings.Count(raw, "@") == 1 && p.secretsKnown()
		if msg := err.Error(); !safe || p.leaks(msg) {
			err = errors.New("not a Redis URL; special characters in a password must be percent-encoded")
		}
		return nil, fmt.Errorf("%w: want %s", err, Forms)
	}
	return p.options, nil
}

// parsed is a URL on its way to Options, with the secrets found in it so far.
type parsed struct {
	options *Options
	url     *url.URL
	secrets []string
}

// secretsKnown tells that the URL's one "@" ended its user and password.
func (p *parsed) secretsKnown() bool { return p.url != nil && p.url.User != nil }

func (p *parsed) leaks(msg string) bool {
	for _, s := range p.secrets {
		if s != "" && strings.Contains(msg, s) {
			return true
		}
	}
	return false
}

func parse(raw string) (*parsed, error) {
	p := &parsed{}
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return p, errors.New("not a Redis URL")
	}
	scheme, kind, _ := strings.Cut(scheme, "+")
	if scheme != "redis" && scheme != "rediss" && (scheme != "unix" || kind != "") {
		return p, errors.New("not a Redis URL")
	}
	// net/url takes one host only.
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	at := strings.LastIndex(authority, "@")
	hosts := strings.Split(authority[at+1:], ",")
	u, err := url.Parse(scheme + "://" + authority[:at+1] + hosts[0] + tail)
	if err != nil {
		return p, errors.New("not a Redis URL") // its error shows the whole of it
	}
	p.url = u
	pass, _ := u.User.Password()
	q := u.Query()
	p.secrets = []string{pass, q.Get("password"), q.Get("sentinel_password")}
	if q.Has("skip_verify") {
		return p, errors.New("skip_verify is not supported: give the authority that signed the server's certificate instead")
	}
	for _, h := range hosts[1:] {
		q.Add("addr", h)
	}
	if kind == "" {
		switch {
		case q.Has("master_name"):
			kind = "sentinel by parameter"
		case q.Has("addr"):
			kind = "cluster"
		}
	}

	o := &Options{tls: scheme == "rediss"}
	p.options = o
	switch kind {
	case "":
		u.RawQuery = q.Encode()
		o.single, err = redis.ParseURL(u.String())
	case "cluster":
		if db := strings.Trim(u.Path, "/"); db != "" && db != "0" {
			return p, errors.New("a Redis Cluster has database 0 only")
		}
		u.Path, u.RawQuery = "", withPorts(q, "6379").Encode()
		o.cluster, err = redis.ParseClusterURL(u.String())
	case "sentinel by parameter":
		u.RawQuery = withPorts(q, "26379").Encode()
		o.failover, err = redis.ParseFailoverURL(u.String())
	case "sentinel":
		err = p.sentinel(u, q)
	default:
		err = errors.New("not a Redis URL")
	}
	return p, err
}

// sentinel reads the form redis+sentinel.
func (p *parsed) sentinel(u *url.URL, q url.Values) error {
	master, db, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
	if master == "" {
		return errors.New("no name of the master that the Sentinels watch")
	}
	user := u.User
	sentinelUser, sentinelPass := q.Get("sentinel_username"), q.Get("sentinel_password")
	q.Del("sentinel_username")
	q.Del("sentinel_password")
	q.Set("master_name", master)
	plain := *u
	plain.User, plain.Path, plain.RawQuery = nil, "/"+db, withPorts(q, "26379").Encode()
	if plain.Port() == "" {
		plain.Host = net.JoinHostPort(plain.Hostname(), "26379")
	}
	o, err := redis.ParseFailoverURL(plain.String())
	if err != nil {
		return err
	}
	if user != nil {
		o.Username = user.Username()
		o.Password, _ = user.Password()
	}
	o.SentinelUsername, o.SentinelPassword = sentinelUser, sentinelPass
	p.options.failover = o
	return nil
}

// withPorts adds the port to further hosts that have none.
func withPorts(q url.Values, port string) url.Values {
	for i, a := range q["addr"] {
		if _, _, err := net.SplitHostPort(a); err != nil {
			q["addr"][i] = net.JoinHostPort(strings.Trim(a, "[]"), port)
		}
	}
	return q
}

// Kind is "single", "cluster" or "sentinel".
func (o *Options) Kind() string {
	switch {
	case o.cluster != nil:
		return "cluster"
	case o.failover != nil:
		return "sentinel"
	}
	return "single"
}

// Addrs are the addresses in the URL.
func (o *Options) Addrs() []string {
	switch {
	case o.cluster != nil:
		return o.cluster.Addrs
	case o.failover != nil:
		return o.failover.SentinelAddrs
	}
	return []string{o.single.Addr}
}

// String is where the Redis is, without credentials.
func (o *Options) String() string {
	s := strings.Join(o.Addrs(), ",")
	if o.failover != nil {
		s += "/" + o.failover.MasterName
	}
	return o.Kind() + " " + s
}

// GoString is String: what prints as %#v must not show a password either.
func (o *Options) GoString() string { return o.String() }
