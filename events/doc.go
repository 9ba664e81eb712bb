// Package events says what is announced: event types, their topics and keys,
// and how they stand on the wire.
//
// An event type embeds Base and is defined once:
//
//	type OrderPlaced struct {
//		events.Base
//		Data Order `json:"data"`
//	}
//
//	var _ = events.Define[OrderPlaced]("order.placed", events.Topic("shop.orders"))
//
// On the wire an event is one flat JSON object: the common fields of Base, then
// the type's own. Encode writes it, Decode reads it; both name the field that
// is wrong and never quote its value, so that their errors can be logged.
//
// Reading is liberal, writing is strict. A message from a Python producer or a
// plain tool, without metadata and with times that lack a zone, is an event if
// its body says its type. What is written has every field, in one order, times
// in UTC.
//
// Package aura360 holds the event types of the AURA360 platform.
package events
