//! Ed25519 signatures, and their keys as files of text: one line for a key, with a word before it that says which kind it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

/// What a file of the key that signs begins with.
const SECRET: &str = "gangplank-ed25519-secret:";
/// What a line of a key that checks begins with.
const PUBLIC: &str = "gangplank-ed25519-public:";

/// A key that signs.
pub struct SigningKey(Ed25519KeyPair);

/// Keys that check: a signature by any of them is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKeys(Vec<Vec<u8>>);

/// A new pair: the texts of the two files.
///
/// # Errors
/// When there is no randomness.
pub fn generate() -> Result<(String, String), &'static str> {
    let random = SystemRandom::new();
    let pair = Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| "there is no randomness")?;
    let key = Ed25519KeyPair::from_pkcs8(pair.as_ref()).map_err(|_| "the new key is damaged")?;
    let public = STANDARD.encode(key.public_key().as_ref());
    Ok((
        format!("{SECRET}{}\n", STANDARD.encode(pair.as_ref())),
        format!("{PUBLIC}{public}\n"),
    ))
}

impl SigningKey {
    /// Reads a file's text. No error quotes it.
    ///
    /// # Errors
    /// When it does not hold such a key.
    pub fn parse(text: &str) -> Result<SigningKey, &'static str> {
        const WRONG: &str = "it does not hold a key that signs, as `gangplank fleet key` makes it";
        let text = text.trim().strip_prefix(SECRET).ok_or(WRONG)?;
        let bytes = STANDARD.decode(text).map_err(|_| WRONG)?;
        let pair = Ed25519KeyPair::from_pkcs8(&bytes).map_err(|_| WRONG)?;
        Ok(SigningKey(pair))
    }

    /// The key that checks its signatures.
    pub fn checked_by(&self) -> TrustedKeys {
        TrustedKeys(vec![self.0.public_key().as_ref().to_vec()])
    }

    /// A signature in base64.
    pub fn sign(&self, message: &[u8]) -> String {
        STANDARD.encode(self.0.sign(message).as_ref())
    }
}

impl TrustedKeys {
    /// Reads a file's text: a key on each line; `#` begins a comment.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<TrustedKeys, String> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = line.strip_prefix(PUBLIC);
            let key = key.and_then(|key| STANDARD.decode(key).ok());
            match key.filter(|key| key.len() == 32) {
                Some(key) => keys.push(key),
                None if line.starts_with(SECRET) => {
                    return Err(format!(
                        "line {}: that is the key that signs, which belongs to who publishes alone; the other file of the pair is meant",
                        number + 1
                    ));
                }
                None => {
                    return Err(format!(
                        "line {} does not hold a key that checks, as `gangplank fleet key` makes it",
                        number + 1
                    ));
                }
            }
        }
        match keys.is_empty() {
            true => Err("it holds no key".to_owned()),
            false => Ok(TrustedKeys(keys)),
        }
    }

    /// Whether a signature, in base64, is one of a message by any of the keys.
    pub fn check(&self, message: &[u8], signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature) else {
            return false;
        };
        self.0.iter().any(|key| {
            let key = UnparsedPublicKey::new(&ED25519, key);
            key.verify(message, &signature).is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_good_for_one_message_and_one_key() {
        let (secret, public) = generate().unwrap();
        let (other_secret, other_public) = generate().unwrap();
        let signature = SigningKey::parse(&secret).unwrap().sign(b"one");
        let public_copy = public.clone();
        let table = [
            (public.clone(), &b"one"[..], &*signature, true),
            (public.clone(), b"two", &signature, false),
            (other_public.clone(), b"one", &signature, false),
            (
                format!("# both\n\n{other_public}{public}"),
                b"one",
                &signature,
                true,
            ),
            (public.clone(), b"one", "", false),
            (public, b"one", "!", false),
        ];
        for (keys, message, signature, good) in table {
            let keys = TrustedKeys::parse(&keys).unwrap();
            assert_eq!(keys.check(message, signature), good, "{keys:?}");
        }
        let own = SigningKey::parse(&secret).unwrap().checked_by();
        assert_eq!(Ok(own), TrustedKeys::parse(&public_copy));
        for wrong in ["", "x", SECRET, &other_public] {
            assert!(SigningKey::parse(wrong).is_err(), "{wrong}");
        }
        for (wrong, why) in [
            ("", "no key"),
            ("# one", "no key"),
            ("x", "line 1"),
            (&*other_secret, "signs"),
            (PUBLIC, "line 1"),
        ] {
            assert!(
                TrustedKeys::parse(wrong).unwrap_err().contains(why),
                "{wrong}"
            );
        }
    }
}
