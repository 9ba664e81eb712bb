package kafkabus

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/aura360/eventbus/bus/driver"
)

// mark and since tell what was seen on the wire meanwhile. Other groups' requests
// count, too: then less is claimed than could be.
func (n *Native) mark() wireMark {
	return wireMark{n.wire.produced.Load(), n.lost.Load()}
}

func (n *Native) since(m wireMark) evidence {
	now := n.mark()
	return evidence{now.produced != m.produced, now.lost != m.lost}
}

// nativePermanent are refusals that the same message always gets.
var nativePermanent = []error{
	kerr.MessageTooLarge,
	kerr.RecordListTooLarge,
	kerr.InvalidTopicException,
	kerr.InvalidRecord,
	kerr.InvalidTimestamp,
	kerr.UnsupportedForMessageFormat,
}

// nativeRefused are answers that mean the broker did not and will not append it.
var nativeRefused = []error{
	kerr.UnknownTopicOrPartition,
	kerr.UnknownTopicID,
	kerr.TopicAuthorizationFailed,
	kerr.ClusterAuthorizationFailed,
	kerr.TransactionalIDAuthorizationFailed,
	kerr.SaslAuthenticationFailed,
	kerr.UnsupportedCompressionType,
	kerr.InvalidRequiredAcks,
	kerr.PolicyViolation,
}

// publishResult tells what became of a message that the client returned with err.
//
// The client returns an answer that it does not try again, or the end of the
// group's context. So an answer that says "not appended" is only worth that much
// if no earlier try may have been: a request that was not answered makes it
// Unknown. After a context's end the last answer is not known; only a message
// for which no request was written is certain.
func (n *Native) publishResult(topic string, err error, seen evidence) driver.Result {
	is := func(list []error) bool {
		for _, e := range list {
			if errors.Is(err, e) {
				return true
			}
		}
		return false
	}
	switch {
	case seen.lost:
		return driver.Result{Outcome: driver.Unknown, Err: err}
	case is(nativePermanent):
		return driver.Result{Outcome: driver.Rejected, Err: fmt.Errorf("%w: %w", driver.ErrPermanent, err)}
	case !n.cfg.Provision.Create && errors.Is(err, kerr.UnknownTopicOrPartition):
		return driver.Result{Outcome: driver.Rejected, Err: missingTopic(topic, err)}
	case is(nativeRefused):
		return driver.Result{Outcome: driver.Rejected, Err: err}
	case !seen.produced:
		return driver.Result{Outcome: driver.Rejected, Err: unavailable(err)}
	default:
		return driver.Result{Outcome: driver.Unknown, Err: err}
	}
}
