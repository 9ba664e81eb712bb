package kafkabus

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// memberHooks tell how the member's connections and its group are.
type memberHooks struct{ m *member }

var _ interface {
	kgo.HookBrokerConnect
	kgo.HookBrokerE2E
	kgo.HookGroupManageError
} = memberHooks{}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (h memberHooks) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		h.m.heard(err)
	}
}

// OnBrokerE2E implements kgo.HookBrokerE2E.
func (h memberHooks) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e kgo.BrokerE2E) {
	const fetch, heartbeat = 1, 12 // https://kafka.apache.org/protocol#protocol_api_keys
	if err := e.Err(); err != nil || key == fetch || key == heartbeat {
		h.m.heard(err)
	}
}

// OnGroupManageError implements kgo.HookGroupManageError: the session is over, and
// the client starts another.
func (h memberHooks) OnGroupManageError(err error) {
	m := h.m
	if errors.Is(err, context.Canceled) {
		return
	}
	m.mu.Lock()
	m.session = false
	m.mu.Unlock()
	m.eachSub(func(s *subscription) { s.failed(err, true) })
	signal(m.look)
}

// eachSub calls f for each subscription.
func (m *member) eachSub(f func(*subscription)) {
	m.mu.Lock()
	subs := make([]*subscription, 0, len(m.subs))
	for _, s := range m.subs {
		subs = append(subs, s)
	}
	m.mu.Unlock()
	for _, s := range subs {
		f(s)
	}
}

// patience is how long no broker may answer before the member counts as cut off.
// With several brokers one may be away for long, and the others answer.
const patience = 2 * time.Second

// heard notes an answer of a broker, or why there was none.
func (m *member) heard(err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) || m.life.Err() != nil {
		return
	}
	now := time.Now()
	m.mu.Lock()
	was := m.cutOff(now)
	if err == nil {
		m.good = now
	} else if m.good.After(m.bad) || m.bad.IsZero() {
		m.bad = now
	}
	is := m.cutOff(now)
	m.mu.Unlock()
	switch {
	case err != nil && is:
		m.eachSub(func(s *subscription) { s.failed(err, false) })
	case err == nil && was:
		m.eachSub(func(s *subscription) {
			s.mu.Lock()
			s.restart++
			s.mu.Unlock()
			s.well()
		})
		signal(m.look)
	}
}

// cutOff is called with mu. Bad is the first failure since the last answer.
func (m *member) cutOff(now time.Time) bool {
	return m.bad.After(m.good) && now.Sub(m.bad) > patience
}

// up tells whether the member takes part in its group.
func (m *member) up(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.session && !m.cutOff(now)
}

// lookEvery is how often the topics are looked at without a reason.
const lookEvery = 15 * time.Second

// watch looks whether the topics are there, and still the same.
func (m *member) watch() {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-m.look:
		case <-t.C:
		case <-m.reading.Done():
			return
		}
		again := false
		m.eachSub(func(s *subscription) {
			s.mu.Lock()
			found := s.found
			s.mu.Unlock()
			if found { // else find is at it
				again = m.inspect(s) || again
			}
		})
		if again {
			if !sleep(m.reading, commitPause) {
				return
			}
			signal(m.look)
		}
	}
}

// find waits until a topic is there, which is created if that is wanted, and
// begins to read it.
func (m *member) find(ctx context.Context, s *subscription) {
	for pause := minConnectPause; ; pause = min(2*pause, maxConnectPause) {
		id, err := m.locate(ctx, s.topic)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			s.mu.Lock()
			s.id, s.found = id, true
			s.mu.Unlock()
			m.client.AddConsumeTopics(s.topic)
			return
		}
		s.failed(err, false)
		if !sleep(ctx, pause) {
			return
		}
	}
}

// locate returns the id of a topic, which is created if that is wanted.
func (m *member) locate(ctx context.Context, topic string) (id topicID, err error) {
	ctx, cancel := context.WithTimeout(ctx, m.n.cfg.SocketTimeout)
	defer cancel()
	if _, err := m.n.find(ctx, topic); err != nil {
		return id, err
	}
	err = m.n.ask(ctx, func(ctx context.Context) error {
		t, err := m.n.describe(ctx, topic)
		if err != nil {
			return err
		}
		id = t.TopicID
		return kerr.ErrorForCode(t.ErrorCode)
	})
	return id, err
}

// inspect looks at a topic that is being read. When it is gone or was made anew
// it is read from the beginning: the client would wait for the one that was. It
// reports whether to look again soon.
func (m *member) inspect(s *subscription) (again bool) {
	id, err := m.locate(m.reading, s.topic)
	if err != nil {
		if !answered(err) {
			return false // no broker is to be had: heard tells
		}
		s.failed(err, false)
		s.mu.Lock()
		s.missing = true
		s.mu.Unlock()
		return true
	}
	s.mu.Lock()
	same, back := s.id == id, s.missing
	s.id, s.missing = id, false
	if !same {
		s.restart++
	}
	s.mu.Unlock()
	if same {
		if back {
			s.well()
		}
		return false
	}
	m.n.cfg.Log.Warn("topic was made anew: reading it from the beginning", "backend", name, "topic", s.topic, "group", m.group)
	m.alone(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.dropClaims(func(c *claim) bool { return c.sub == s })
	})
	m.client.PurgeTopicsFromConsuming(s.topic)
	m.client.AddConsumeTopics(s.topic)
	return false
}
