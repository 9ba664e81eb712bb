package kafkabus

import (
	"errors"
	"fmt"

	"github.com/IBM/sarama"

	"github.com/aura360/eventbus/bus/driver"
)

// evidence is what was seen on the wire during a send. It counts what concurrent
// sends did, too, and then claims less than it could.
type evidence struct {
	produced bool // a produce request left
	lost     bool // a connection was lost before the answer to one came
}

type wireMark struct{ produced, lost int64 }

func (w *wire) mark() wireMark {
	return wireMark{w.produced.Load(), w.lost.Load()}
}

func (w *wire) since(m wireMark) evidence {
	return evidence{w.produced.Load() != m.produced, w.lost.Load() != m.lost}
}

// permanent are refusals that the same message always gets.
var permanent = []error{
	sarama.ErrMessageSizeTooLarge,
	sarama.ErrMessageSetSizeTooLarge,
	sarama.ErrInvalidTopic,
	sarama.ErrInvalidRecord,
	sarama.ErrInvalidTimestamp,
	sarama.ErrUnsupportedForMessageFormat,
}

// refused are answers that mean the broker did not and will not append it.
var refused = []error{
	sarama.ErrUnknownTopicOrPartition,
	sarama.ErrTopicAuthorizationFailed,
	sarama.ErrClusterAuthorizationFailed,
	sarama.ErrTransactionalIDAuthorizationFailed,
	sarama.ErrSASLAuthenticationFailed,
	sarama.ErrUnsupportedCompressionType,
	sarama.ErrInvalidRequiredAcks,
	sarama.ErrPolicyViolation,
}

// classify tells what became of a message that sarama returned with err.
//
// sarama returns the last error of several tries. So an error that says "not
// appended" is only worth that much if no earlier try may have been: a
// connection lost in the middle makes it Unknown. For the same reason what
// sarama tries again is Unknown even where the last answer is a refusal, such as
// not enough replicas: the try before may have said "after append".
func classify(err error, seen evidence) driver.Result {
	is := func(list []error) bool {
		for _, e := range list {
			if errors.Is(err, e) {
				return true
			}
		}
		return false
	}
	var tooLarge sarama.ConfigurationError // sarama's word for larger than MaxMessageBytes
	var encoding sarama.PacketEncodingError
	switch {
	case errors.As(err, &tooLarge), errors.As(err, &encoding):
		// Refused before anything was sent.
		return driver.Result{Outcome: driver.Rejected, Err: fmt.Errorf("%w: %w", driver.ErrPermanent, err)}
	case seen.lost:
		return driver.Result{Outcome: driver.Unknown, Err: err}
	case is(permanent):
		return driver.Result{Outcome: driver.Rejected, Err: fmt.Errorf("%w: %w", driver.ErrPermanent, err)}
	case is(refused):
		return driver.Result{Outcome: driver.Rejected, Err: err}
	case !seen.produced:
		return driver.Result{Outcome: driver.Rejected, Err: unavailable(err)}
	default:
		return driver.Result{Outcome: driver.Unknown, Err: err}
	}
}
