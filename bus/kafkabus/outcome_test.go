package kafkabus

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"

	"github.com/IBM/sarama"

	"github.com/aura360/eventbus/bus/driver"
)

func TestOutcomeOfEveryKindOfError(t *testing.T) {
	none, left, lost := evidence{}, evidence{produced: true}, evidence{produced: true, lost: true}
	for _, c := range []struct {
		err       error
		seen      evidence
		want      driver.Outcome
		permanent bool
		reach     bool // the cluster could not be used
	}{
		// Refused by sarama itself.
		{sarama.ConfigurationError("too large"), lost, driver.Rejected, true, false},
		{sarama.PacketEncodingError{Info: "x"}, lost, driver.Rejected, true, false},
		// Refused by the broker.
		{sarama.ErrMessageSizeTooLarge, left, driver.Rejected, true, false},
		{sarama.ErrMessageSetSizeTooLarge, left, driver.Rejected, true, false},
		{sarama.ErrInvalidRecord, left, driver.Rejected, true, false},
		{fmt.Errorf("wrapped: %w", sarama.ErrInvalidTopic), none, driver.Rejected, true, false},
		{sarama.ErrTopicAuthorizationFailed, left, driver.Rejected, false, false},
		{sarama.ErrUnknownTopicOrPartition, left, driver.Rejected, false, false},
		// The same, but an earlier try may have been appended.
		{sarama.ErrMessageSizeTooLarge, lost, driver.Unknown, false, false},
		{sarama.ErrTopicAuthorizationFailed, lost, driver.Unknown, false, false},
		// Nothing left this client.
		{sarama.ErrOutOfBrokers, none, driver.Rejected, false, true},
		{syscall.ECONNREFUSED, none, driver.Rejected, false, true},
		{sarama.ErrSASLAuthenticationFailed, none, driver.Rejected, false, false},
		{sarama.ErrNotLeaderForPartition, none, driver.Rejected, false, true},
		// Something did, and it may be this message.
		{sarama.ErrOutOfBrokers, left, driver.Unknown, false, false},
		{syscall.ECONNREFUSED, lost, driver.Unknown, false, false},
		{io.EOF, lost, driver.Unknown, false, false},
		{sarama.ErrRequestTimedOut, left, driver.Unknown, false, false},
		{sarama.ErrNotEnoughReplicas, left, driver.Unknown, false, false},
		{sarama.ErrNotEnoughReplicasAfterAppend, left, driver.Unknown, false, false},
		{sarama.ErrNotLeaderForPartition, left, driver.Unknown, false, false},
		{errors.New("anything"), left, driver.Unknown, false, false},
	} {
		r := classify(c.err, c.seen)
		if r.Outcome != c.want || errors.Is(r.Err, driver.ErrPermanent) != c.permanent || errors.Is(r.Err, driver.ErrUnavailable) != c.reach || !errors.Is(r.Err, c.err) {
			t.Errorf("%v with %+v: %v %v", c.err, c.seen, r.Outcome, r.Err)
		}
	}
}
