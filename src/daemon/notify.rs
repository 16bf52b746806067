//! What systemd is told (sd_notify(3)): ready, reloading, stopping, alive. A datagram a message, to the socket that it
//! names in `NOTIFY_SOCKET`; without one nothing is sent.

use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result, ResultExt};

/// Tells systemd how the process fares.
#[derive(Debug, Default)]
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
}

impl Notifier {
    /// To the socket at `address`, a path or `@` and an abstract name.
    ///
    /// # Errors
    /// `Config` for what is no address; `Unavailable` if there are no sockets.
    pub fn new(address: Option<&str>) -> Result<Self> {
        let Some(address) = address.filter(|a| !a.is_empty()) else { return Ok(Self::default()) };
        let wrong = || format!("NOTIFY_SOCKET: `{address}` is no address of a unix socket");
        let to = match address.strip_prefix('@') {
            Some(name) => abstract_name(name).or_kind(ErrorKind::Config, wrong)?,
            None if address.starts_with('/') => SocketAddr::from_pathname(address).or_kind(ErrorKind::Config, wrong)?,
            None => return Err(Error::config(wrong())),
        };
        let socket = UnixDatagram::unbound().or_kind(ErrorKind::Unavailable, || "cannot make a socket".to_owned())?;
        // a service manager that does not listen must not hold the process up
        drop(socket.set_write_timeout(Some(Duration::from_secs(1))));
        Ok(Self { to: Some((socket, to)) })
    }

    /// Whether anybody listens.
    pub fn is_on(&self) -> bool {
        self.to.is_some()
    }

    /// The process works; `status` is a line for `systemctl status`.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// The configuration is being read again; `ready` follows.
    pub fn reloading(&self) {
        self.send("RELOADING=1\nSTATUS=reading the pipelines again");
    }

    /// The process ends, within `grace`.
    pub fn stopping(&self, grace: Duration) {
        self.send(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}\nSTATUS=draining", grace.as_micros()));
    }

    /// The process is alive; `status` as above.
    pub fn alive(&self, status: &str) {
        self.send(&format!("WATCHDOG=1\nSTATUS={status}"));
    }

    fn send(&self, message: &str) {
        let Some((socket, to)) = &self.to else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), to) {
            tracing::warn!(%error, "cannot notify the service manager");
        }
    }
}

#[cfg(target_os = "linux")]
fn abstract_name(name: &str) -> std::io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_name(_: &str) -> std::io::Result<SocketAddr> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// How often the watchdog wants to hear: half of what it allows, as sd_watchdog_enabled(3) advises. `usec` is `WATCHDOG_USEC`,
/// `pid` is `WATCHDOG_PID`: the watchdog may be another process's.
pub fn watchdog_period(usec: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    let ours = pid.is_none_or(|pid| pid.parse() == Ok(own_pid));
    let allowed: u64 = usec?.parse().ok().filter(|&usec| usec > 0)?;
    ours.then(|| Duration::from_micros(allowed / 2).max(Duration::from_millis(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_at_paths_and_abstract_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("harvestd-test-{}", std::process::id());
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.display().to_string()),
            (UnixDatagram::bind_addr(&abstract_name(&name).unwrap()).unwrap(), format!("@{name}")),
        ];
        for (socket, address) in sockets {
            let notifier = Notifier::new(Some(&address)).unwrap();
            notifier.ready("2 running");
            notifier.stopping(Duration::from_secs(45));
            let mut buffer = [0; 200];
            let mut receive = || {
                let n = socket.recv(&mut buffer).unwrap();
                String::from_utf8_lossy(&buffer[..n]).into_owned()
            };
            assert_eq!(receive(), "READY=1\nSTATUS=2 running");
            assert_eq!(receive(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=45000000\nSTATUS=draining");
        }
    }

    #[test]
    fn nobody_listening_is_no_fault_and_a_wrong_address_is_one() {
        assert!(!Notifier::new(None).unwrap().is_on() && !Notifier::new(Some("")).unwrap().is_on());
        Notifier::new(Some("/nowhere/at/all")).unwrap().ready("x");
        assert_eq!(Notifier::new(Some("relative")).unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn the_watchdog_is_answered_twice_in_its_time() {
        assert_eq!(watchdog_period(Some("30000000"), None, 7), Some(Duration::from_secs(15)));
        assert_eq!(watchdog_period(Some("30000000"), Some("7"), 7), Some(Duration::from_secs(15)));
        assert_eq!(watchdog_period(Some("30000000"), Some("8"), 7), None);
        assert_eq!((watchdog_period(None, None, 7), watchdog_period(Some("0"), None, 7)), (None, None));
    }
}
