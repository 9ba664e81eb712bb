//go:build unix

package local

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNotInstalled means that a server's program is not on this machine.
var ErrNotInstalled = errors.New("not installed")

// Redis is the configuration of one Redis server.
type Redis struct {
	Name string // defaults to "redis"
	Port int
	Dir  string // data, configuration and log; created

	// Fsync is the appendfsync policy. Defaults to "always": what was
	// acknowledged survives a crash.
	Fsync string

	// Config holds more lines of redis.conf, for example an ACL "user" line.
	Config []string

	// Certs makes the port speak TLS. A client certificate is accepted, not
	// required.
	Certs *Certs

	// Sentinel starts the server as a sentinel: no data, only Config.
	Sentinel bool
}

// RedisServer is the path of the redis-server program; the error wraps
// [ErrNotInstalled].
func RedisServer() (string, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", fmt.Errorf("redis-server is %w: run scripts/brokers up, or install the package redis-server", ErrNotInstalled)
	}
	return path, nil
}

// Server writes the configuration and returns how to start the server. Data
// already in r.Dir is kept.
func (r Redis) Server() (Server, error) {
	program, err := RedisServer()
	if err != nil {
		return Server{}, err
	}
	if r.Name == "" {
		r.Name = "redis"
	}
	if r.Fsync == "" {
		r.Fsync = "always"
	}
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		return Server{}, err
	}
	conf := []string{
		"bind " + Loopback,
		"protected-mode no",
		"daemonize no",
		"dir " + r.Dir,
	}
	if r.Certs != nil {
		conf = append(conf,
			"port 0",
			fmt.Sprintf("tls-port %d", r.Port),
			"tls-cert-file "+r.Certs.Path(ServerCert),
			"tls-key-file "+r.Certs.Path(ServerKey),
			"tls-ca-cert-file "+r.Certs.Path(CACert),
			"tls-auth-clients optional")
	} else {
		conf = append(conf, fmt.Sprintf("port %d", r.Port))
	}
	if !r.Sentinel {
		conf = append(conf,
			"appendonly yes",
			"appendfsync "+r.Fsync,
			`save ""`,
			"maxmemory-policy noeviction",
			"repl-diskless-sync-delay 0")
	}
	conf = append(conf, r.Config...)
	file := filepath.Join(r.Dir, "redis.conf")
	// A sentinel keeps what it learned in its configuration: leave that alone.
	if _, err := os.Stat(file); err != nil || !r.Sentinel {
		if err := os.WriteFile(file, []byte(strings.Join(conf, "\n")+"\n"), 0o644); err != nil {
			return Server{}, err
		}
	}
	argv := []string{program, file}
	if r.Sentinel {
		argv = append(argv, "--sentinel")
	}
	return Server{
		Name:  r.Name,
		Argv:  argv,
		Dir:   r.Dir,
		Log:   filepath.Join(r.Dir, "redis.log"),
		Ready: func(ctx context.Context) error { return PingRedis(ctx, Addr(r.Port), r.Certs) },
	}, nil
}

// PingRedis returns nil if a Redis server answers at addr and has loaded its
// data. A server that wants a password answers, too.
func PingRedis(ctx context.Context, addr string, certs *Certs) error {
	reply, err := redisCommand(ctx, addr, certs, "PING")
	if err != nil {
		return err
	}
	for _, ok := range []string{"+PONG", "-NOAUTH", "-NOPERM"} {
		if strings.HasPrefix(reply, ok) {
			return nil
		}
	}
	return fmt.Errorf("redis at %s answers %q", addr, reply)
}

// RedisVersion asks the server at addr for its version.
func RedisVersion(ctx context.Context, addr string) (string, error) {
	conn, err := dialRedis(ctx, addr, nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, "INFO server\r\n"); err != nil {
		return "", err
	}
	lines := bufio.NewScanner(conn)
	for range 40 {
		if !lines.Scan() {
			break
		}
		if v, ok := strings.CutPrefix(lines.Text(), "redis_version:"); ok {
			return v, nil
		}
		if strings.HasPrefix(lines.Text(), "-") {
			return "", errors.New(lines.Text())
		}
	}
	return "", fmt.Errorf("redis at %s did not say its version", addr)
}

// redisCommand sends one inline command and returns the first line of the reply.
func redisCommand(ctx context.Context, addr string, certs *Certs, command string) (string, error) {
	conn, err := dialRedis(ctx, addr, certs)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
		return "", err
	}
	reply, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(reply), err
}

func dialRedis(ctx context.Context, addr string, certs *Certs) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	if certs == nil {
		return conn, nil
	}
	cfg, err := certs.TLS(true)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	cfg.ServerName = Loopback
	return tls.Client(conn, cfg), nil
}
