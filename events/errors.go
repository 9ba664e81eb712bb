package events

import (
	stdjson "encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Reason says in one word why an event was refused. The set is closed, so it
// serves as a metric label and as the poison queue's reason.
type Reason string

// Reasons an event is refused or given up for.
const (
	ReasonUndecodable Reason = "undecodable"  // not JSON, wrong JSON type, invalid UTF-8
	ReasonInvalid     Reason = "invalid"      // a required field is missing, a rule broken
	ReasonVersion     Reason = "version"      // a newer schema than this build knows
	ReasonUnknownType Reason = "unknown_type" // publishing a type that was never defined
	ReasonTooLarge    Reason = "too_large"    // over the size limit
	ReasonMalformed   Reason = "malformed"    // not a message of this wire at all
	ReasonPermanent   Reason = "permanent"    // the handler said that retrying is useless
	ReasonPanic       Reason = "panic"        // the handler panicked on every try
	ReasonExhausted   Reason = "exhausted"    // the handler failed on every try
	ReasonRejected    Reason = "rejected"     // the broker refused it for ever
	ReasonNoHandler   Reason = "no_handler"   // waited for a retry by a handler that is no more
)

// Error is an event that was refused. It never quotes the event's data.
type Error struct {
	Type   string // event type, "" when it could not be told
	Field  string // path of the field, dots between names; "" for the event as a whole
	Reason Reason
	Err    error // what is wrong
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("event")
	if e.Type != "" {
		fmt.Fprintf(&b, " %s", e.Type)
	}
	fmt.Fprintf(&b, ": %s", e.Reason)
	if e.Field != "" {
		fmt.Fprintf(&b, ": field %s", e.Field)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// ReasonOf returns the reason of the first *Error in err's chain, "" when there
// is none.
func ReasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

var (
	errMissing  = errors.New("required, but missing")
	errNil      = errors.New("nil event")
	errNoObject = errors.New("want a JSON object")
	errUTF8     = errors.New("invalid UTF-8")
	errReserved = errors.New("the name of a common field, which only Base may write")
	errVersion  = errors.New("want a whole number from 1")
	errPanic    = errors.New("reading it panicked")
)

// jsonError turns an error of the JSON library into one that names the field
// and quotes no value: the library's own texts hold the offending data.
func jsonError(typ string, err error) *Error {
	out := &Error{Type: typ, Reason: ReasonUndecodable}
	var (
		sem *json.SemanticError
		syn *jsontext.SyntacticError
	)
	switch {
	case errors.As(err, &sem):
		out.Field = fieldPath(sem.JSONPointer)
		switch {
		case errors.Is(sem.Err, errTime):
			out.Err = errTime
		case sem.JSONKind != 0 && sem.GoType != nil:
			out.Err = fmt.Errorf("JSON %s does not fit Go %v", kindName(sem.JSONKind), sem.GoType)
		default:
			out.Err = errors.New("JSON does not fit the event's Go type")
		}
	case errors.As(err, &syn):
		out.Field = fieldPath(syn.JSONPointer)
		out.Err = fmt.Errorf("not valid JSON at byte %d%s", syn.ByteOffset, syntaxHint(syn.Err))
	case errors.Is(err, errNoObject):
		out.Err = errNoObject
	default:
		out.Err = errors.New("cannot be read or written as JSON")
	}
	return out
}

// encodeError is jsonError for writing: the event is at fault, not some text.
func encodeError(typ string, err error) *Error {
	out := jsonError(typ, err)
	out.Reason = ReasonInvalid
	var (
		sem *json.SemanticError
		syn *jsontext.SyntacticError
	)
	switch {
	case errors.As(err, &syn): // inside a SemanticError too
		out.Err = fmt.Errorf("cannot be written as JSON%s", syntaxHint(syn.Err))
	case errors.As(err, &sem) && errors.Is(sem.Err, errTime):
		out.Err = errors.New("want a year from 1 to 9999")
	case errors.As(err, &sem) && sem.GoType != nil:
		out.Err = fmt.Errorf("this value of Go %v cannot be written as JSON", sem.GoType)
	}
	return out
}

// upcastError keeps an Upcaster's error, but not the texts of JSON libraries,
// which an Upcaster most often just returns.
func upcastError(typ string, from int64, err error) error {
	var (
		sem  *json.SemanticError
		syn  *jsontext.SyntacticError
		syn1 *stdjson.SyntaxError
		typ1 *stdjson.UnmarshalTypeError
	)
	out := &Error{Type: typ, Reason: ReasonUndecodable}
	switch {
	case errors.As(err, &sem), errors.As(err, &syn):
		out = jsonError(typ, err)
		err = out.Err
	case errors.As(err, &syn1):
		err = errors.New("not valid JSON")
	case errors.As(err, &typ1):
		out.Field = typ1.Field
		err = fmt.Errorf("JSON does not fit Go %v", typ1.Type)
	}
	out.Err = fmt.Errorf("upcast from version %d: %w", from, err)
	return out
}

func syntaxHint(err error) string {
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return ": a name appears twice in one object"
	case err != nil && strings.Contains(err.Error(), "UTF-8"):
		return ": invalid UTF-8"
	case err != nil && strings.Contains(err.Error(), "depth"):
		return ": nested too deeply"
	case err != nil && strings.Contains(err.Error(), "EOF"):
		return ": ends too early"
	}
	return ""
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "boolean"
	case '"':
		return "string"
	case '0':
		return "number"
	case '{':
		return "object"
	case '[':
		return "array"
	}
	return "value"
}

// fieldPath writes a JSON pointer as dotted names, cut where it gets silly.
func fieldPath(p jsontext.Pointer) string {
	var names []string
	for name := range p.Tokens() {
		if len(names) == 6 {
			names = append(names, "...")
			break
		}
		if len(name) > 64 {
			name = strings.ToValidUTF8(name[:64], "") + "..."
		}
		names = append(names, name)
	}
	return strings.Join(names, ".")
}
