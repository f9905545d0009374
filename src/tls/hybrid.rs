//! The key exchange X25519MLKEM768 (code point 0x11EC): what it agrees on stays secret as long as
//! one of X25519 and ML-KEM-768 does, so that a recording is of no use to a later quantum computer.
//!
//! Shares and secrets are those of draft-ietf-tls-ecdhe-mlkem: the part of ML-KEM first, then that
//! of X25519. X25519 is ring's, ML-KEM comes from the crate `ml-kem`,
//! through a package of our own.

use kes_ml_kem_768::{CIPHERTEXT, KEY, PrivateKey, SECRET, SEED, Secret, encapsulate};
use rustls::{
    Error, NamedGroup, PeerMisbehaved, ProtocolVersion,
    crypto::{
        ActiveKeyExchange, CompletedKeyExchange, GetRandomFailed, SharedSecret, SupportedKxGroup,
        ring::kx_group::X25519,
    },
    ffdhe_groups::FfdheGroup,
};
use zeroize::Zeroizing;

/// Bytes of a share of X25519.
const POINT: usize = 32;

/// An invalid share is answered with the alert `illegal_parameter`.
const INVALID: Error = Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare);

/// The group. A server only encapsulates, a client only decapsulates.
#[derive(Debug)]
pub struct X25519MlKem768;

impl SupportedKxGroup for X25519MlKem768 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let classical = X25519.start()?;
        let mut seed = Zeroizing::new([0; SEED]);
        fill_random(&mut *seed)?;
        let post_quantum = PrivateKey::from_seed(&seed);
        let mut share = Vec::with_capacity(KEY + POINT);
        share.extend_from_slice(&post_quantum.public_key());
        share.extend_from_slice(classical.pub_key());
        Ok(Box::new(Started { classical, post_quantum, share }))
    }

    /// The server's whole part. `share` is the client's; it is checked before anything is computed
    /// with it: lengths, and that all coefficients are reduced (FIPS 203, 7.2). ring refuses points
    /// whose result is zero (RFC 7748, 6.1).
    fn start_and_complete(&self, share: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let (key, point) = split::<KEY>(share)?;
        let mut message = Zeroizing::new([0; SECRET]);
        fill_random(&mut *message)?;
        // First, since it finds a wrong key before anything is computed.
        let mut secret = Secret::default();
        let ciphertext = encapsulate(key, &message, &mut secret).ok_or(INVALID)?;
        let classical = X25519.start_and_complete(point)?;
        let mut share = Vec::with_capacity(CIPHERTEXT + POINT);
        share.extend_from_slice(&ciphertext);
        share.extend_from_slice(&classical.pub_key);
        Ok(CompletedKeyExchange {
            group: self.name(),
            pub_key: share,
            secret: join(&secret, &classical.secret),
        })
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        version == ProtocolVersion::TLSv1_3
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }
}

/// A client's exchange that waits for the server's share. Its secrets are wiped when it is dropped.
struct Started {
    classical: Box<dyn ActiveKeyExchange>,
    post_quantum: PrivateKey,
    share: Vec<u8>,
}

impl ActiveKeyExchange for Started {
    fn complete(self: Box<Self>, share: &[u8]) -> Result<SharedSecret, Error> {
        let (ciphertext, point) = split::<CIPHERTEXT>(share)?;
        let classical = self.classical.complete(point)?;
        // A forged ciphertext gives a secret that the server does not have.
        let secret = self.post_quantum.decapsulate(ciphertext);
        Ok(join(&secret, &classical))
    }

    /// A server that knows only X25519 takes this share without asking again.
    fn hybrid_component(&self) -> Option<(NamedGroup, &[u8])> {
        Some((self.classical.group(), self.classical.pub_key()))
    }

    fn complete_hybrid_component(self: Box<Self>, share: &[u8]) -> Result<SharedSecret, Error> {
        self.classical.complete(share)
    }

    fn pub_key(&self) -> &[u8] {
        &self.share
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }
}

/// The parts of a share: `N` bytes of ML-KEM and a point.
fn split<const N: usize>(share: &[u8]) -> Result<(&[u8; N], &[u8]), Error> {
    match share.split_first_chunk() {
        Some((post_quantum, point)) if point.len() == POINT => Ok((post_quantum, point)),
        _ => Err(INVALID),
    }
}

/// Both secrets as one, in memory that rustls wipes.
fn join(post_quantum: &Secret, classical: &SharedSecret) -> SharedSecret {
    [&**post_quantum, classical.secret_bytes()].concat().into()
}

fn fill_random(bytes: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(bytes).map_err(|_| GetRandomFailed.into())
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// The smallest stack of a thread that begins or answers handshakes is that of the key store
    /// threads; see `server::blocking` and `keystore::token`. Half of it must do.
    const STACK: usize = 128 * 1024;

    fn bytes<const N: usize>(first: u8) -> [u8; N] {
        std::array::from_fn(|at| first + u8::try_from(at).unwrap())
    }

    fn client() -> Box<dyn ActiveKeyExchange> {
        X25519MlKem768.start().unwrap()
    }

    fn server(share: &[u8]) -> CompletedKeyExchange {
        X25519MlKem768.start_and_complete(share).unwrap()
    }

    fn is_refused<T>(result: Result<T, Error>) -> bool {
        matches!(result, Err(INVALID))
    }

    /// Key: the example of RFC 9935, appendix C, whose seed is 00 01 02 ... 3f. Secret: the self-test
    /// of Go's `crypto/internal/fips140/mlkem`, whose seed is 01 02 ... 40 and message 41 ... 60.
    #[test]
    fn ml_kem_gives_the_known_answers() {
        let example = PrivateKey::from_seed(&bytes(0));
        let key = example.public_key();
        let hash = Sha256::digest(key);
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!("0b7934c83125c788995e2ba6bd761e33046b3e40571be53e023309a29f398cc9", hash);

        let key = PrivateKey::from_seed(&bytes(1));
        let mut secret = Secret::default();
        let ciphertext = encapsulate(&key.public_key(), &bytes(0x41), &mut secret).unwrap();
        let known = [
            0x55, 0x01, 0xfc, 0x52, 0x3b, 0x74, 0x5f, 0x41, 0x76, 0x2a, 0x18, 0x8d, 0xe4, 0x4a,
            0x59, 0xb9, 0x20, 0xf4, 0x30, 0x14, 0x62, 0x04, 0xee, 0x4e, 0x79, 0x37, 0x32, 0x39,
            0x6d, 0xf7, 0xaa, 0x48,
        ];
        assert_eq!(known, *secret);
        assert_eq!(known, *key.decapsulate(&ciphertext));
    }

    #[test]
    fn both_ends_agree_on_both_secrets_that_of_ml_kem_first() {
        let (mine, theirs) = (client(), client());
        assert_eq!(KEY + POINT, mine.pub_key().len());
        assert_ne!(mine.pub_key(), theirs.pub_key());
        let done = server(mine.pub_key());
        assert_eq!(CIPHERTEXT + POINT, done.pub_key.len());
        let secret = mine.complete(&done.pub_key).unwrap();
        assert_eq!(done.secret.secret_bytes(), secret.secret_bytes());

        // The same without this module's parts for the client.
        let post_quantum = PrivateKey::from_seed(&bytes(7));
        let classical = X25519.start().unwrap();
        let key = post_quantum.public_key();
        let done = server(&[&key, classical.pub_key()].concat());
        let (ciphertext, point) = done.pub_key.split_at(CIPHERTEXT);
        let first = post_quantum.decapsulate(ciphertext.try_into().unwrap());
        let second = classical.complete(point).unwrap();
        let both = [&first[..], second.secret_bytes()].concat();
        assert_eq!(both, done.secret.secret_bytes());
    }

    #[test]
    fn a_server_that_knows_only_x25519_takes_the_share_beside() {
        let mine = client();
        let (group, point) = mine.hybrid_component().unwrap();
        assert_eq!(NamedGroup::X25519, group);
        assert_eq!(&mine.pub_key()[KEY..], point);
        let done = X25519.start_and_complete(point).unwrap();
        let secret = mine.complete_hybrid_component(&done.pub_key).unwrap();
        assert_eq!(done.secret.secret_bytes(), secret.secret_bytes());
    }

    #[test]
    fn a_client_refuses_shares_of_other_lengths_and_zero_secrets() {
        for length in [0, POINT, CIPHERTEXT, CIPHERTEXT + POINT - 1, KEY + POINT] {
            assert!(is_refused(client().complete(&vec![9; length])), "{length}");
        }
        let mine = client();
        let mut share = server(mine.pub_key()).pub_key;
        share[CIPHERTEXT..].fill(0);
        assert!(is_refused(mine.complete(&share)));
        assert!(is_refused(client().complete_hybrid_component(&[0; POINT])));
    }

    #[test]
    fn a_forged_ciphertext_gives_another_secret() {
        let mine = client();
        let mut done = server(mine.pub_key());
        done.pub_key[0] ^= 1;
        let secret = mine.complete(&done.pub_key).unwrap();
        let (ours, theirs) = (secret.secret_bytes(), done.secret.secret_bytes());
        assert_ne!(ours[..32], theirs[..32]);
        assert_eq!(ours[32..], theirs[32..]);
    }

    #[test]
    fn small_stacks_hold_both_ends() {
        let exchange = || {
            let mine = client();
            let done = server(mine.pub_key());
            mine.complete(&done.pub_key).unwrap().secret_bytes().len()
        };
        let thread = std::thread::Builder::new().stack_size(STACK);
        assert_eq!(SECRET + POINT, thread.spawn(exchange).unwrap().join().unwrap());
    }
}
