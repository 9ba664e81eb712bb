// Package middleware is what happens around every message, on its way out and
// on its way in.
package middleware
