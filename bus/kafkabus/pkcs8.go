package kafkabus

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha1" //nolint:gosec // PBKDF2's default hash, RFC 8018
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"hash"
)

// Encrypted PKCS #8 keys (RFC 5958) with PBES2, PBKDF2 and AES-CBC (RFC 8018):
// what OpenSSL writes since version 1.1. The standard library reads only the
// older format.
var (
	oidPBES2   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidSHA1    = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 7}
	oidSHA256  = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidSHA512  = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 11}
	aesKeySize = map[string]int{
		"2.16.840.1.101.3.4.1.2":  16,
		"2.16.840.1.101.3.4.1.22": 24,
		"2.16.840.1.101.3.4.1.42": 32,
	}
)

var (
	errKeyFormat   = errors.New("want a PKCS #8 key encrypted with PBES2, PBKDF2 and AES-CBC")
	errKeyPassword = errors.New("wrong password, or the file is damaged")
)

type encryptedKey struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

type pbes2Params struct {
	KDF, Cipher pkix.AlgorithmIdentifier
}

type pbkdf2Params struct {
	Salt       []byte
	Iterations int
	KeyLength  int                      `asn1:"optional"`
	PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
}

// decryptPKCS8 returns the key in der, in plain DER.
func decryptPKCS8(der []byte, password string) ([]byte, error) {
	var key encryptedKey
	var scheme pbes2Params
	var kdf pbkdf2Params
	var iv []byte
	for _, step := range []struct {
		der func() []byte
		to  any
	}{
		{func() []byte { return der }, &key},
		{func() []byte { return key.Algorithm.Parameters.FullBytes }, &scheme},
		{func() []byte { return scheme.KDF.Parameters.FullBytes }, &kdf},
		{func() []byte { return scheme.Cipher.Parameters.FullBytes }, &iv},
	} {
		if rest, err := asn1.Unmarshal(step.der(), step.to); err != nil || len(rest) > 0 {
			return nil, errKeyFormat
		}
	}
	size := aesKeySize[scheme.Cipher.Algorithm.String()]
	if !key.Algorithm.Algorithm.Equal(oidPBES2) || !scheme.KDF.Algorithm.Equal(oidPBKDF2) ||
		size == 0 || len(iv) != aes.BlockSize || kdf.Iterations < 1 || kdf.Iterations > 10_000_000 {
		return nil, errKeyFormat
	}
	var prf func() hash.Hash
	switch id := kdf.PRF.Algorithm; {
	case len(id) == 0, id.Equal(oidSHA1):
		prf = sha1.New
	case id.Equal(oidSHA256):
		prf = sha256.New
	case id.Equal(oidSHA512):
		prf = sha512.New
	default:
		return nil, errKeyFormat
	}
	secret, err := pbkdf2.Key(prf, password, kdf.Salt, kdf.Iterations, size)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	n := len(key.Data)
	if n == 0 || n%aes.BlockSize != 0 {
		return nil, errKeyFormat
	}
	plain := make([]byte, n)
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, key.Data)
	pad := int(plain[n-1])
	if pad < 1 || pad > aes.BlockSize {
		return nil, errKeyPassword
	}
	for _, b := range plain[n-pad:] {
		if int(b) != pad {
			return nil, errKeyPassword
		}
	}
	return plain[:n-pad], nil
}
