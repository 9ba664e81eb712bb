package redisbus

import (
	"time"

	"github.com/aura360/eventbus/bus/driver"
)

// SetLease shortens how long members of n's subscribers may be silent.
func (n *Native) SetLease(d time.Duration) { n.leaseTTL = d }

// Abandon ends a native subscriber as a crash would: nothing is given back, no
// ack is sent any more. Close must still be called.
func Abandon(sub driver.Subscriber) {
	s := sub.(*consuming)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for _, c := range s.consumers {
		c.acks.end()
		c.cancel()
		<-c.left
		c.retire()
		c.stream.Close()
		c.work.Wait()
		c.ended.Do(func() {})
	}
}

// Owned returns how many partitions of a topic a native subscriber reads.
func Owned(sub driver.Subscriber) int {
	s := sub.(*consuming)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.consumers {
		c.mu.Lock()
		for _, p := range c.partitions {
			if p.state == held {
				n++
			}
		}
		c.mu.Unlock()
	}
	return n
}
