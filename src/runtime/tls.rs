//! The cryptography behind HTTPS.

/// rustls wants its cryptography chosen once a process, before the first connection. Ring: no C beyond `cc`.
pub fn install_provider() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // an error means that somebody else installed one first, which serves as well
        drop(rustls::crypto::ring::default_provider().install_default());
    });
}
