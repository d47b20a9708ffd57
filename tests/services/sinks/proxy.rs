//! A connection that breaks at the worst moment.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Stands between a client and its server on loopback, and passes on what each says to the other. Once armed,
/// it lets the next request with certain bytes in it through to the server, waits for the answer, and hangs
/// up instead of passing it on: the client can't know whether the request was carried out.
pub struct Proxy {
    pub address: SocketAddr,
    armed: Arc<AtomicBool>,
}

impl Proxy {
    pub fn start(server: &str, trigger: &'static [u8]) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let armed = Arc::new(AtomicBool::new(false));
        let (server, switch) = (server.to_owned(), Arc::clone(&armed));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&server).unwrap();
                let cut = Arc::new(AtomicBool::new(false));
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (switch, cut_requests) = (Arc::clone(&switch), Arc::clone(&cut));
                std::thread::spawn(move || {
                    pass(from, to, |bytes| {
                        if contains(bytes, trigger) && switch.swap(false, Ordering::SeqCst) {
                            cut_requests.store(true, Ordering::SeqCst);
                        }
                        true
                    });
                });
                std::thread::spawn(move || pass(server, client, |_| !cut.load(Ordering::SeqCst)));
            }
        });
        Proxy { address, armed }
    }

    /// From now on.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Whether it has hung up since it was armed.
    pub fn has_cut(&self) -> bool {
        !self.armed.load(Ordering::SeqCst)
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Passes on until either side ends or `go_on` says no, and then ends both.
fn pass(mut from: TcpStream, mut to: TcpStream, go_on: impl Fn(&[u8]) -> bool) {
    from.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !go_on(&buffer[..length]) || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
