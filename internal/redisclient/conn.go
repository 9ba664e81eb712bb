package redisclient

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
)

// Conn is a connection to a server on which its owner speaks RESP2: go-redis
// has connected, authenticated and chosen the database, and uses it no more.
// Behind Sentinels it is closed when they name another master.
type Conn struct {
	net.Conn
	client *redis.Client
}

// Dial connects to the one server, or to the master behind Sentinels. It is
// bounded by ctx and the options' timeouts. For a Cluster there is no such
// connection.
func (o *Options) Dial(ctx context.Context) (*Conn, error) {
	var c *redis.Client
	switch {
	case o.cluster != nil:
		return nil, errors.New("a Cluster is no single server")
	case o.failover != nil:
		f := *o.failover
		f.PoolSize, f.MinIdleConns, f.MaxActiveConns = 1, 0, 1
		c = redis.NewFailoverClient(&f)
	default:
		s := *o.single
		s.PoolSize, s.MinIdleConns, s.MaxActiveConns = 1, 0, 1
		c = redis.NewClient(&s)
	}
	dialled := &capture{}
	c.AddHook(dialled)
	// Its reply is all that the server sent: nothing is left in a buffer of go-redis.
	if err := c.Ping(ctx).Err(); err != nil {
		_ = c.Close()
		return nil, err
	}
	return &Conn{Conn: dialled.conn, client: c}, nil
}

// Timeouts are what bounds one read and one write, above 0.
func (c *Conn) Timeouts() (read, write time.Duration) {
	read, write = c.client.Options().ReadTimeout, c.client.Options().WriteTimeout
	if read <= 0 { // a URL may say "no timeout"; every wait is bounded here
		read = 5 * time.Second
	}
	if write <= 0 {
		write = 5 * time.Second
	}
	return read, write
}

// NetConn returns the connection itself.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Close closes the connection.
func (c *Conn) Close() error { return errors.Join(c.client.Close(), ignoreClosed(c.Conn.Close())) }

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// capture is a hook that keeps the connection dialled. Ping returns after it, on
// another goroutine perhaps, but through the pool's lock.
type capture struct{ conn net.Conn }

func (h *capture) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		h.conn = conn
		return conn, err
	}
}

func (*capture) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (*capture) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
