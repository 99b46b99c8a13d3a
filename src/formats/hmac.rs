//! HMAC with SHA-256 (RFC 2104), by which a receiver knows who has written what it got.

use ring::hmac::{HMAC_SHA256, Key, sign};

use crate::system::hex;

/// The code of a message by a key, in hex.
pub fn hmac_sha256(key: &[u8], message: &[u8]) -> String {
    hex::encode(sign(&Key::new(HMAC_SHA256, key), message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_rfc_4231() {
        let table: [(&[u8], &[u8], &str); 4] = [
            (
                &[0x0b; 20],
                b"Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                &[0xaa; 20],
                &[0xdd; 50],
                "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
            ),
        ];
        for (key, message, code) in table {
            assert_eq!(hmac_sha256(key, message), code);
        }
    }
}
