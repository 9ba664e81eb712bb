package events_test

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/aura360/eventbus/events"
)

// SeatBooked is an event type of the application's own. Version 2 of its schema
// calls seat what version 1 called place.
type SeatBooked struct {
	events.Base
	Seat  string `json:"seat" event:"required"`
	Price int    `json:"price" event:"required"` // cents; 0 is a price
}

// Key orders bookings by seat, not by user.
func (e SeatBooked) Key() string { return e.Seat }

var _ = events.Define[SeatBooked]("seat.booked",
	events.Topic("shop.seats"),
	events.Version(2),
	events.Upcast(1, func(body []byte) ([]byte, error) {
		return bytes.Replace(body, []byte(`"place"`), []byte(`"seat"`), 1), nil
	}))

func ExampleDefine() {
	d, _ := events.Lookup("seat.booked")
	fmt.Println(d.Type, d.Topic, d.Version, d.GoType)
	// Output: seat.booked shop.seats 2 events_test.SeatBooked
}

func ExampleEncode() {
	enc, err := events.Encode(SeatBooked{
		Base: events.Base{ // all of it may be left out
			ID:        "0194a2c0-1111-7abc-8def-0123456789ab",
			Timestamp: time.Date(2025, 1, 7, 12, 34, 56, 0, time.UTC),
		},
		Seat: "12A",
	}, events.Base{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(enc.Key)
	fmt.Println(string(enc.Body))

	_, err = events.Encode(SeatBooked{Price: 100}, events.Base{})
	fmt.Println(err)
	// Output:
	// 12A
	// {"event_id":"0194a2c0-1111-7abc-8def-0123456789ab","event_type":"seat.booked","event_version":2,"timestamp":"2025-01-07T12:34:56.000000Z","trace_id":null,"user_id":null,"metadata":{},"seat":"12A","price":0}
	// event seat.booked: invalid: field seat: required, but missing
}

func ExampleDecode() {
	// As a Python service writes it: no metadata, a time without a zone.
	body := []byte(`{"event_id": "1", "event_type": "seat.booked", "event_version": 2,
		"timestamp": "2025-01-07T12:34:56.5", "user_id": null, "seat": "12A", "price": 4200, "new": {}}`)
	e, err := events.Decode[SeatBooked](nil, body)
	fmt.Println(e.Seat, e.Price, e.Timestamp, err)

	_, err = events.Decode[SeatBooked](nil, bytes.Replace(body, []byte("4200"), []byte(`"4200"`), 1))
	var bad *events.Error
	if errors.As(err, &bad) {
		fmt.Println(bad.Reason, bad.Field)
	}
	fmt.Println(err)
	// Output:
	// 12A 4200 2025-01-07 12:34:56.5 +0000 UTC <nil>
	// undecodable price
	// event seat.booked: undecodable: field price: JSON string does not fit Go int
}

func ExampleUpcast() {
	old := []byte(`{"event_id":"1","event_type":"seat.booked","timestamp":"2025-01-07T12:34:56Z","place":"12A","price":0}`)
	e, err := events.Decode[SeatBooked](nil, old)
	fmt.Println(e.Seat, e.Version, err)

	_, err = events.Decode[SeatBooked](nil, []byte(`{"event_version":3}`))
	fmt.Println(events.ReasonOf(err))
	// Output:
	// 12A 2 <nil>
	// version
}

func ExampleEncoded_Header() {
	enc, err := events.Encode(SeatBooked{Base: events.Base{ID: "b-1"}, Seat: "12A"}, events.Base{})
	if err != nil {
		fmt.Println(err)
		return
	}
	h := enc.Header(events.SourceOf("box office"))
	fmt.Println(h[events.HeaderCEID], h[events.HeaderCEType], h[events.HeaderCESource], h[events.HeaderKey])
	// Output: b-1 seat.booked /box%20office 12A
}
