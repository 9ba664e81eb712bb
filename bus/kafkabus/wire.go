package kafkabus

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// wire dials the connections of one sarama client. It does TLS itself, so that
// it sees Kafka's frames, and from them it knows three things that sarama does
// not tell:
//
//   - whether any produce request left this client at all: a publish during
//     which none did was rejected for sure, whatever the error;
//   - whether a connection was lost between a produce request and its answer:
//     then an earlier try may have reached the broker;
//   - that a JoinGroup waits for its answer, which takes as long as the slowest
//     member: sarama would give up after its ordinary read timeout, and lose all
//     partitions.
//
// It can also be cut (abort), which ends calls that cannot be cancelled.
type wire struct {
	dialTimeout time.Duration
	joinTimeout time.Duration // longest wait for a JoinGroup or SyncGroup; 0: not extended
	tls         func() (*tls.Config, error)

	life   context.Context //nolint:containedctx // ends all dialling
	cancel context.CancelFunc

	produced atomic.Int64 // produce requests begun to be written
	lost     atomic.Int64 // connections closed while one waited for its answer

	mu    sync.Mutex
	conns map[*frames]struct{} // nil after abort
}

// newWire returns a wire that lives until abort or the end of ctx.
func newWire(ctx context.Context, c Config) *wire {
	w := &wire{dialTimeout: c.SocketConnectionSetupTimeout, conns: make(map[*frames]struct{})}
	if c.ssl() {
		w.tls = c.tlsConfig
	}
	w.life, w.cancel = context.WithCancel(ctx)
	return w
}

// Dial implements golang.org/x/net/proxy.Dialer.
func (w *wire) Dial(network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(w.life, w.dialTimeout)
	defer cancel()
	d := net.Dialer{KeepAlive: 30 * time.Second}
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if w.tls != nil {
		cfg, err := w.tls()
		if err != nil {
			_ = conn.Close()
			return nil, err
		}
		cfg.ServerName, _, _ = net.SplitHostPort(addr)
		secure := tls.Client(conn, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("TLS handshake with %s: %w", addr, err)
		}
		conn = secure
	}
	f := &frames{Conn: conn, wire: w}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conns == nil {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	w.conns[f] = struct{}{}
	return f, nil
}

// abort closes all connections and dials no more.
func (w *wire) abort() {
	w.cancel()
	w.mu.Lock()
	conns := w.conns
	w.conns = nil
	w.mu.Unlock()
	for f := range conns {
		_ = f.Conn.Close() // sarama then closes f
	}
}

func (w *wire) aborted() bool { return w.life.Err() != nil }

// frames is a connection that looks at the head of each request. sarama writes
// a request with one Write, and has at most one produce request unanswered per
// connection (Net.MaxOpenRequests is 1).
type frames struct {
	net.Conn
	wire      *wire
	producing atomic.Bool // a produce request waits for its answer
	joining   atomic.Bool // a JoinGroup or SyncGroup does
	closed    atomic.Bool
}

// Kafka's API keys. https://kafka.apache.org/protocol#protocol_api_keys
const (
	apiProduce   = 0
	apiJoinGroup = 11
	apiSyncGroup = 14
)

func (f *frames) Write(b []byte) (int, error) {
	if len(b) >= 6 { // length int32, API key int16, ...
		switch binary.BigEndian.Uint16(b[4:]) {
		case apiProduce:
			f.producing.Store(true)
			f.wire.produced.Add(1)
		case apiJoinGroup, apiSyncGroup:
			f.joining.Store(true)
		}
	}
	return f.Conn.Write(b)
}

func (f *frames) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	if n > 0 {
		f.producing.Store(false)
		f.joining.Store(false)
	}
	return n, err
}

func (f *frames) SetReadDeadline(t time.Time) error {
	if f.joining.Load() && f.wire.joinTimeout > 0 {
		t = time.Now().Add(f.wire.joinTimeout)
	}
	return f.Conn.SetReadDeadline(t)
}

func (f *frames) Close() error {
	if !f.closed.Swap(true) {
		if f.producing.Load() {
			f.wire.lost.Add(1)
		}
		f.wire.mu.Lock()
		delete(f.wire.conns, f)
		f.wire.mu.Unlock()
	}
	return f.Conn.Close()
}
