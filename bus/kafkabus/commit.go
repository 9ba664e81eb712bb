package kafkabus

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// commitLoop commits what is acked, for as long as the member lives.
func (m *member) commitLoop() {
	for {
		select {
		case <-m.dirty:
		case <-m.life.Done():
			return
		}
		// Acks gather meanwhile.
		if !sleep(m.life, m.n.cfg.AutoCommitInterval) {
			return
		}
		ctx, cancel := context.WithTimeout(m.life, m.n.cfg.SocketTimeout)
		err := m.commitOwned(ctx)
		cancel()
		if err != nil && !sleep(m.life, commitPause) {
			return
		}
	}
}

// commitPause is the pause after a commit that failed.
const commitPause = 250 * time.Millisecond

// flush commits until everything acked is committed or ctx ends.
func (m *member) flush(ctx context.Context) error {
	for {
		err := m.commitOwned(ctx)
		if err == nil {
			return nil
		}
		if !sleep(ctx, commitPause) {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// commitOwned commits the offsets of the partitions that the member owns.
func (m *member) commitOwned(ctx context.Context) error {
	m.committing.Lock()
	defer m.committing.Unlock()
	m.mu.Lock()
	claims := make([]*claim, 0, len(m.claims))
	for _, c := range m.claims {
		claims = append(claims, c)
	}
	m.mu.Unlock()
	return m.commitLocked(ctx, claims)
}

// commit does the same for some, which the member is about to lose, and tries
// again while there is hope. Those are in no other commit that begins later: it
// could put the next owner back.
func (m *member) commit(ctx context.Context, claims []*claim) error {
	m.committing.Lock()
	defer m.committing.Unlock()
	for {
		err := m.commitLocked(ctx, claims)
		if !kerr.IsRetriable(err) && !errors.Is(err, kerr.OffsetMetadataTooLarge) || !sleep(ctx, commitPause) {
			return err
		}
	}
}

func (m *member) commitLocked(ctx context.Context, claims []*claim) error {
	sent := make(map[partition]*claim)
	metadata := make(map[partition]string)
	at := make(map[string]map[int32]kgo.EpochOffset)
	for _, c := range claims {
		c.mu.Lock()
		if prefix := c.offsets.prefix(); c.dirty && prefix >= 0 {
			c.dirty = false
			sent[c.partition] = c
			if !c.bare {
				metadata[c.partition] = encodeMetadata(c.id, prefix, c.offsets.beyond())
			}
			if at[c.topic] == nil {
				at[c.topic] = make(map[int32]kgo.EpochOffset)
			}
			at[c.topic][c.number] = kgo.EpochOffset{Epoch: c.epoch, Offset: prefix}
		}
		c.mu.Unlock()
	}
	if len(sent) == 0 {
		return nil
	}
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			t := &req.Topics[i]
			for j := range t.Partitions {
				p := &t.Partitions[j]
				p.Metadata = kmsg.StringPtr(metadata[partition{t.Topic, p.Partition}])
			}
		}
		return nil
	})
	var failed error
	m.client.CommitOffsetsSync(ctx, at, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			failed = err
			return
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				c := sent[partition{t.Topic, p.Partition}]
				err := kerr.ErrorForCode(p.ErrorCode)
				switch {
				case c == nil:
				case err == nil:
					delete(sent, c.partition)
				default:
					failed = err
					if errors.Is(err, kerr.OffsetMetadataTooLarge) {
						c.mu.Lock()
						c.bare = true
						c.mu.Unlock()
					}
				}
			}
		}
	})
	for _, c := range sent {
		c.mu.Lock()
		c.soil()
		c.mu.Unlock()
	}
	if failed == nil && len(sent) > 0 {
		failed = errAnswer
	}
	return failed
}
