package middleware

// Piece names one part of a chain, so that a user can leave it out. The chains
// are fixed otherwise: their order is what makes them right.
type Piece string

// The pieces that can be left out. Those of the publish chain stand in
// PublishPieces, those of the subscribe chain in SubscribePieces, outermost first.
const (
	PieceTrace       Piece = "trace"
	PieceMetrics     Piece = "metrics"
	PieceRetry       Piece = "retry"
	PiecePoison      Piece = "poison"
	PieceDelay       Piece = "delay"
	PieceDeduplicate Piece = "deduplicate"
	PieceRecover     Piece = "recover"
)

// PublishPieces are the pieces of the publish chain that Config.Without of
// package bus takes, outermost first.
var PublishPieces = []Piece{PieceTrace, PieceMetrics, PieceRetry, PiecePoison}

// SubscribePieces are the pieces of the subscribe chain that Config.Without of
// package router takes, outermost first.
var SubscribePieces = []Piece{PieceTrace, PieceMetrics, PieceDeduplicate, PiecePoison, PieceDelay, PieceRetry, PieceRecover}
