//! Child processes that never outlive the test, free ports and the cache folder.

use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// A child process with its output in a file; killed and reaped when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the command with no input and with both outputs appended to `log`.
    ///
    /// # Errors
    /// When the log or the program cannot be opened; the error names which.
    pub fn spawn(command: &mut Command, log: &Path) -> io::Result<Self> {
        let named = |what: String| move |e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"));
        let out = File::options().create(true).append(true).open(log).map_err(named(log.display().to_string()))?;
        let err = out.try_clone()?;
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().map_err(named(program))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal by name (`TERM`, `STOP`, `CONT`, ..) to this process alone.
    pub fn signal(&self, name: &str) {
        let _ = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status();
    }

    /// Asks it to end, waits up to `patience`, then kills it. Returns its exit code when it ended by itself.
    pub fn terminate(mut self, patience: Duration) -> Option<i32> {
        self.signal("TERM");
        let until = Instant::now() + patience;
        while self.is_running() && Instant::now() < until {
            // Another process ends when it ends; there is nothing to wait on but its state.
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child.try_wait().ok().flatten().and_then(|status| status.code())
    }

    /// Kills it at once, as a crash would.
    pub fn kill(self) {}

    /// What it wrote so far.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where ports are looked for: below those that systems give to outgoing connections, so that none of these takes the port of a
/// server that is just being started or restarted.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A port of loopback, for TCP and UDP, that was free a moment ago and that this process was not given before.
///
/// # Panics
/// When all are taken.
#[must_use]
pub fn free_port() -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    // Processes begin at places far apart, and do not meet for a while.
    let begin = std::process::id().wrapping_mul(7_919);
    let count = u32::from(PORTS.end - PORTS.start);
    let next = || {
        let at = begin.wrapping_add(u32::from(GIVEN.fetch_add(1, Ordering::Relaxed))) % count;
        PORTS.start + u16::try_from(at).expect("it is below a count of ports")
    };
    let free =
        |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok() && UdpSocket::bind(("127.0.0.1", *port)).is_ok();
    (0..count).map(|_| next()).find(free).expect("loopback has a free port")
}

/// Waits until somebody accepts connections there.
///
/// # Errors
/// When nobody did in time; the text says how long was waited.
pub fn wait_for_port(port: u16, patience: Duration) -> Result<(), String> {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok(());
        }
        // A port that opens gives no sign; polling is all there is.
        std::thread::sleep(Duration::from_millis(30));
    }
    Err(format!("nobody listens on 127.0.0.1:{port} after {patience:?}"))
}

/// Our cache folder: `LONGHAUL_CACHE`, else `.cache/longhaul` at the root of the checkout.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn cache_dir() -> PathBuf {
    let dir = std::env::var_os("LONGHAUL_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/longhaul"), PathBuf::from);
    fs::create_dir_all(&dir).expect("the cache folder can be made");
    dir.canonicalize().expect("the cache folder exists")
}

/// Makes `target` once, whoever comes first: `make` fills a fresh temporary folder, which is then renamed. Safe among
/// processes and threads at the same time.
///
/// # Errors
/// What `make` said.
pub fn install(target: &Path, make: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
    let lock_path = target.with_extension("lock");
    let lock = File::create(&lock_path).map_err(|e| format!("{}: {e}", lock_path.display()))?;
    lock.lock().map_err(|e| format!("{}: {e}", lock_path.display()))?;
    if target.exists() {
        return Ok(());
    }
    let parent = target.parent().ok_or("an install target has a parent folder")?;
    let fresh = tempfile::tempdir_in(parent).map_err(|e| e.to_string())?;
    make(fresh.path())?;
    fs::rename(fresh.keep(), target).map_err(|e| e.to_string())
}
