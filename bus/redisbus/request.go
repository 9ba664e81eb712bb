package redisbus

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/aura360/eventbus/bus/driver"
)

// request is what a publisher sends at once and waits for: whole commands, and
// what became of their messages.
type request struct {
	buf   []byte // the commands
	parts []part // in the order of the commands
	count int    // messages

	state atomic.Int32
	// done gets a value when the results are settled; its receiver may read them.
	done    chan struct{}
	results []driver.Result // of each message, in the order of the commands; nil: all confirmed

	scratch []byte
	single  [1]part // parts, of one message
}

// part is the messages for one stream. Several are a transaction: Redis takes
// all or none, so that no message of a key is missing before one that is there.
type part struct {
	n    int // messages
	end  int // where its commands end in buf
	isTx bool
}

// The states of a request. Who changes waiting decides: its publisher, that it
// is not sent; or who sends, that it is.
const (
	waiting = iota
	sent
	left // its publisher is gone and wants no results
)

// add writes the command for one message, which begins with prefix. After an
// error nothing of it is written.
func (r *request) add(prefix []byte, msg *message.Message, maxBytes int) error {
	buf, scratch, err := appendEntry(append(r.buf, prefix...), r.scratch, msg, maxBytes)
	r.scratch = scratch
	if err != nil {
		return err
	}
	r.buf = buf
	r.count++
	return nil
}

// set sets the result of the messages from, to-1.
func (r *request) set(from, to int, res driver.Result) {
	if r.results == nil {
		if res.Err == nil {
			return
		}
		r.results = make([]driver.Result, r.count)
	}
	for i := from; i < to; i++ {
		r.results[i] = res
	}
}

// settle tells the publisher that the results are there.
func (r *request) settle() { r.done <- struct{}{} }

// reject settles a request of which nothing was sent, unless its publisher left.
func (r *request) reject(err error) {
	if !r.state.CompareAndSwap(waiting, sent) {
		return
	}
	r.set(0, r.count, driver.Result{Outcome: driver.Rejected, Err: err})
	r.settle()
}

// serverError is an error that the server answered.
type serverError string

func (e serverError) Error() string { return string(e) }

// RedisError is what go-redis marks its own errors of the server with.
func (serverError) RedisError() {}

// errProtocol begins the answer to a command that the server does not read to
// its end. It hangs up after it.
const errProtocol = "ERR Protocol error"

// refusal is what an answer with an error means for its message.
func refusal(text string) error {
	err := serverError(text)
	if strings.HasPrefix(text, "WRONGTYPE") || strings.Contains(text, "exceeds maximum allowed size") ||
		strings.Contains(text, "invalid bulk length") {
		return fmt.Errorf("%w: %w", driver.ErrPermanent, err)
	}
	return err
}

// elsewhere tells that a server which answers so will not take messages soon,
// while another may: who connects again finds the new master, and authenticates
// with what is allowed now.
func elsewhere(text string) bool {
	for _, p := range []string{"READONLY", "MASTERDOWN", "LOADING", "NOAUTH", "NOPERM"} {
		if strings.HasPrefix(text, p) {
			return true
		}
	}
	return false
}

// reckoning follows the answers to a batch of requests.
type reckoning struct {
	batch  []*request
	req    int // the request whose answers come
	offset int // where its commands begin in the bytes of the batch
	part   int // the part of it
	first  int // the first message of the part
	step   int // of the part: see transaction

	failed  int   // the message that the server refused to queue, counted from 1; 0: none
	refused error // why
	bare    bool  // MULTI itself was refused, so the commands run one by one

	// last is the last request, with its results, to be settled when the line is
	// free: its publisher finds it so, rather than open another connection.
	last *request

	reconnect bool // nothing more may be sent on the connection
}

var errUnexpected = errors.New("the server's answer is none that the command has")

// over tells that all answers have come.
func (k *reckoning) over() bool { return k.req == len(k.batch) }

// take takes the next answer. Its error means that the connection is of no use.
func (k *reckoning) take(a answer) error {
	r := k.batch[k.req]
	p := r.parts[k.part]
	if a.kind == '-' && strings.HasPrefix(a.text, errProtocol) {
		k.stopAt(r, p, a.text)
		return nil
	}
	if a.kind == '-' && elsewhere(a.text) {
		k.reconnect = true
	}
	if p.isTx {
		return k.transaction(r, p, a)
	}
	res, ok := entryResult(a)
	if !ok {
		return errUnexpected
	}
	r.set(k.first, k.first+1, res)
	k.next(r, p)
	return nil
}

// entryResult is what the answer to XADD means.
func entryResult(a answer) (driver.Result, bool) {
	switch {
	case a.kind == '$' && a.n >= 0:
		return driver.Result{}, true
	case a.kind == '$':
		return driver.Result{Outcome: driver.Rejected, Err: errNoStream}, true
	case a.kind == '-':
		return driver.Result{Outcome: driver.Rejected, Err: refusal(a.text)}, true
	}
	return driver.Result{}, false
}

// transaction takes an answer of a transaction: one to MULTI, one to each of n
// commands, one to EXEC, and with that n results.
func (k *reckoning) transaction(r *request, p part, a answer) error {
	step := k.step
	k.step++
	switch {
	case step == 0:
		k.bare = a.kind == '-'
		if !k.bare && a.kind != '+' {
			return errUnexpected
		}
	case step <= p.n && k.bare:
		res, ok := entryResult(a)
		if !ok {
			return errUnexpected
		}
		r.set(k.first+step-1, k.first+step, res)
	case step <= p.n:
		switch {
		case a.kind == '-' && k.failed == 0:
			k.failed, k.refused = step, refusal(a.text)
		case a.kind != '-' && a.kind != '+':
			return errUnexpected
		}
	case step == p.n+1 && k.bare: // EXEC without MULTI
		k.next(r, p)
	case step == p.n+1 && a.kind == '-':
		if k.failed == 0 { // EXEC itself was refused
			r.set(k.first, k.first+p.n, driver.Result{Outcome: driver.Rejected, Err: refusal(a.text)})
		} else {
			k.discarded(r, p)
		}
		k.next(r, p)
	case step == p.n+1:
		if a.kind != '*' || a.n != p.n {
			return errUnexpected
		}
	default:
		res, ok := entryResult(a)
		if !ok {
			return errUnexpected
		}
		i := k.first + step - p.n - 2
		r.set(i, i+1, res)
		if step == 2*p.n+1 {
			k.next(r, p)
		}
	}
	return nil
}

// discarded sets the results of a transaction that the server did not run since
// it refused to queue one message.
func (k *reckoning) discarded(r *request, p part) {
	others := fmt.Errorf("not written, since another message of the batch was refused: %w", k.refused)
	if errors.Is(k.refused, driver.ErrPermanent) { // that one's fault alone
		others = driver.ErrNotSent
	}
	r.set(k.first, k.first+p.n, driver.Result{Outcome: driver.Rejected, Err: others})
	i := k.first + k.failed - 1
	r.set(i, i+1, driver.Result{Outcome: driver.Rejected, Err: k.refused})
}

// next goes on to the next part.
func (k *reckoning) next(r *request, p part) {
	k.first += p.n
	k.part++
	k.step, k.failed, k.refused, k.bare = 0, 0, nil, false
	if k.part == len(r.parts) {
		k.offset += len(r.buf)
		k.req, k.part, k.first = k.req+1, 0, 0
		if k.over() {
			k.last = r
		} else {
			r.settle() // and r is its publisher's again
		}
	}
}

// stopAt ends with an answer after which the server reads no more: what is sent
// and not answered was not and will not be read.
func (k *reckoning) stopAt(r *request, p part, text string) {
	if p.isTx && k.step >= 1 && k.step <= p.n && !k.bare {
		if k.failed == 0 {
			k.failed, k.refused = k.step, refusal(text)
		}
		k.discarded(r, p)
	} else {
		i := k.first
		if p.isTx {
			i += max(0, min(k.step, p.n)-1)
		}
		r.set(i, k.first+p.n, driver.Result{Outcome: driver.Rejected, Err: refusal(text)})
	}
	k.next(r, p)
	k.reconnect = true
	k.rest(func(int) driver.Result {
		return driver.Result{Outcome: driver.Rejected, Err: fmt.Errorf("%w: %w", driver.ErrNotSent, serverError(text))}
	})
}

// rest settles what has no answer yet. result is told how many bytes of the batch
// must have left for the server to run any of the messages: a command that did
// not leave whole is not run. Nor is a transaction without its end, but if MULTI
// was refused, unheard, it is none.
func (k *reckoning) rest(result func(bytes int) driver.Result) {
	for !k.over() {
		r := k.batch[k.req]
		p := r.parts[k.part]
		bytes := p.end
		if p.isTx {
			bytes = 1
			if k.part > 0 {
				bytes += r.parts[k.part-1].end
			}
		}
		from := k.first
		if k.bare { // some were answered one by one
			from += max(0, min(k.step-1, p.n))
		} else {
			from += max(0, k.step-p.n-2) // some results of EXEC are there
		}
		r.set(from, k.first+p.n, result(k.offset+bytes))
		k.next(r, p)
	}
}
