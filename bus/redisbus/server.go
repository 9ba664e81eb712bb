package redisbus

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/aura360/eventbus/bus/driver"
	"github.com/aura360/eventbus/internal/redisclient"
)

// name is the value of MESSAGING_BACKEND, and the backend's in errors and logs.
const name = "redis"

// server is what both builds know of their Redis.
type server struct {
	cfg  Config
	opts *redisclient.Options

	admin redis.UniversalClient // all but publishing and reading
}

// newServer checks cfg. It does no I/O.
func newServer(cfg Config) (*server, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	opts, err := redisclient.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	err = opts.Apply(redisclient.Settings{
		ClientName: cfg.ClientName,
		Username:   cfg.Username, Password: cfg.Password,
		SentinelUsername: cfg.SentinelUsername, SentinelPassword: cfg.SentinelPassword,
		CAFile: cfg.CAFile, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile, ServerName: cfg.ServerName,
		DialTimeout: cfg.DialTimeout, Timeout: cfg.Timeout,
	})
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	return &server{cfg: cfg, opts: opts, admin: opts.New()}, nil
}

// Name implements driver.Backend.
func (s *server) Name() string { return name }

// Ping implements driver.Backend.
func (s *server) Ping(ctx context.Context) error {
	_, err := bounded(ctx, func() (string, error) { return s.admin.Ping(ctx).Result() })
	return s.fail("ping", err)
}

// fail names what failed, and marks a failure to reach the server.
func (s *server) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, redis.ErrClosed) {
		return fmt.Errorf("redis: %s: %w", op, driver.ErrClosed)
	}
	return fmt.Errorf("redis: %s: %w", op, unavailable(err))
}

// unavailable marks a failure to reach the server.
func unavailable(err error) error {
	if isReply(err) || errors.Is(err, driver.ErrClosed) || errors.Is(err, driver.ErrPermanent) {
		return err
	}
	return fmt.Errorf("%w: %w", driver.ErrUnavailable, err)
}

// isReply tells that err is what the server answered, rather than that there
// was no answer.
func isReply(err error) bool {
	var e redis.Error
	return errors.As(err, &e)
}

// closed ignores that a client was closed before.
func closed(err error) error {
	if errors.Is(err, redis.ErrClosed) {
		return nil
	}
	return err
}

// bounded runs f and returns when it does or ctx ends. go-redis does not listen
// to a context that is cancelled; f is left to the client's timeouts then.
func bounded[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	ch := make(chan result, 1)
	go func() {
		v, err := f()
		ch <- result{v, err}
	}()
	select {
	case r := <-ch:
		return r.v, r.err
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}
