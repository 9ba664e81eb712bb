package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/IBM/sarama"

	"github.com/aura360/eventbus/bus/driver"
)

// admin asks the cluster questions, one at a time, on a client of its own that
// is dialled when needed and thrown away after a failure of the network.
// sarama's calls cannot be cancelled: when a caller's context ends the client is
// cut, which ends the call.
type admin struct {
	b    *Backend
	slot chan struct{} // held by the call that uses cur
	cur  *session      // guarded by slot
}

// session is one client.
type session struct {
	wire   *wire
	client sarama.Client
	admin  sarama.ClusterAdmin
}

func newAdmin(b *Backend) *admin {
	return &admin{b: b, slot: make(chan struct{}, 1)}
}

// ask runs f, bounded by ctx. An error that is not the server's own word wraps
// driver.ErrUnavailable.
func ask[T any](ctx context.Context, a *admin, f func(*session) (T, error)) (T, error) {
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, unavailable(context.Cause(ctx))
	}
	if a.b.isClosed() {
		return zero, driver.ErrClosed
	}
	select {
	case a.slot <- struct{}{}:
	case <-ctx.Done():
		return zero, unavailable(context.Cause(ctx))
	case <-a.b.life.Done():
		return zero, driver.ErrClosed
	}
	type answer struct {
		v   T
		err error
	}
	var w *wire
	if a.cur != nil {
		w = a.cur.wire
	} else {
		w = newWire(a.b.life, a.b.cfg)
	}
	answers := make(chan answer, 1)
	go func() {
		defer func() { <-a.slot }()
		var r answer
		s, err := a.dial(w)
		if err == nil {
			r.v, err = f(s)
		}
		if r.err = err; err != nil && !serverSaid(err) || w.aborted() {
			a.drop(w)
		}
		answers <- r
	}()
	select {
	case r := <-answers:
		return r.v, a.explain(r.err)
	case <-ctx.Done():
	case <-a.b.life.Done():
	}
	// The call ends soon, and lets go of the slot: nearly all it can wait for is
	// the wire.
	w.abort()
	if ctx.Err() == nil {
		return zero, driver.ErrClosed
	}
	return zero, unavailable(context.Cause(ctx))
}

// dial returns the current session, or connects a new one over w.
func (a *admin) dial(w *wire) (*session, error) {
	if a.cur != nil {
		return a.cur, nil
	}
	client, err := sarama.NewClient(a.b.addrs, a.b.adminConfig(w))
	if err != nil {
		return nil, err
	}
	ca, err := sarama.NewClusterAdminFromClient(client)
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	a.cur = &session{w, client, ca}
	return a.cur, nil
}

// drop forgets the current session and cuts its wire.
func (a *admin) drop(w *wire) {
	if a.cur != nil {
		_ = a.cur.client.Close()
		a.cur = nil
	}
	w.abort()
}

// close waits for the call in hand, which ends because the backend's life did,
// and lets go of the client.
func (a *admin) close() {
	a.slot <- struct{}{}
	if a.cur != nil {
		a.drop(a.cur.wire)
	}
	<-a.slot
}

// explain marks an error that means the cluster cannot be used.
func (a *admin) explain(err error) error {
	if err == nil || serverSaid(err) {
		return err
	}
	if a.b.isClosed() && errors.Is(err, net.ErrClosed) {
		return driver.ErrClosed
	}
	return unavailable(err)
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", driver.ErrUnavailable, err) }

// serverSaid tells whether err is an answer of a broker that could be reached
// and used.
func serverSaid(err error) bool {
	var code sarama.KError
	if errors.Is(err, sarama.ErrOutOfBrokers) || errors.Is(err, sarama.ErrSASLAuthenticationFailed) {
		return false
	}
	var topic *sarama.TopicError
	return errors.As(err, &code) || errors.As(err, &topic) || errors.Is(err, errAnswer)
}

// errAnswer marks our own conclusions from a broker's answer.
var errAnswer = errors.New("kafka answered")
