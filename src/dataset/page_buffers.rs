//! The memory of an encoder: pages are filled in buffers that are used over and over, and leave without being copied.
//!
//! At a few hundred megabytes a second, fresh memory (a page fault every 4 KiB) and each further copy cost as much as the
//! encoding itself.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Buffers that come back when the last reader of their bytes is done, even after the encoder's end.
#[derive(Clone, Debug, Default)]
pub struct PageBuffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl PageBuffers {
    /// A buffer of `len` bytes, whatever they are.
    pub(super) fn take(&self, len: usize) -> Vec<u8> {
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        buffer.resize(len, 0);
        buffer
    }

    /// Give a buffer back.
    pub(super) fn put(&self, buffer: Vec<u8>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }

    /// Make bytes of a buffer that comes back here.
    pub(super) fn freeze(&self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { buffer, home: self.clone() })
    }
}

/// A buffer that is out as [`Bytes`].
struct Lent {
    buffer: Vec<u8>,
    home: PageBuffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.put(std::mem::take(&mut self.buffer));
    }
}

/// Collects what is written as a list of bytes. A write of exactly the bytes that were announced takes them as they are.
#[derive(Debug, Default)]
pub(super) struct PageSink {
    ready: Vec<Bytes>,
    small: Vec<u8>,
    announced: Bytes,
}

impl PageSink {
    /// These bytes will be written.
    pub(super) fn announce(&mut self, bytes: Bytes) {
        self.announced = bytes;
    }

    /// All that was written since the last call, in order.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        self.end_small();
        self.announced = Bytes::new();
        std::mem::take(&mut self.ready)
    }

    fn end_small(&mut self) {
        if !self.small.is_empty() {
            self.ready.push(std::mem::take(&mut self.small).into());
        }
    }
}

impl Write for PageSink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if std::ptr::eq(bytes, &*self.announced) {
            self.end_small();
            self.ready.push(std::mem::take(&mut self.announced));
        } else {
            self.small.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_when_the_last_reader_is_done() {
        let buffers = PageBuffers::default();
        let mut buffer = buffers.take(3);
        buffer.copy_from_slice(b"abc");
        let address = buffer.as_ptr();
        let bytes = buffers.freeze(buffer);
        let slice = bytes.slice(1..);
        drop(bytes);
        let other = buffers.take(100);
        assert_ne!(other.as_ptr(), address);
        assert_eq!(slice, "bc");
        drop(slice);
        let again = buffers.take(2);
        assert_eq!((again.as_ptr(), again.len()), (address, 2));
    }

    #[test]
    fn announced_bytes_are_taken_and_others_copied_in_order() {
        let mut sink = PageSink::default();
        let page = Bytes::from(vec![7u8; 100]);
        sink.write_all(b"ab").unwrap();
        sink.announce(page.clone());
        sink.write_all(b"cd").unwrap();
        sink.write_all(&page).unwrap();
        sink.write_all(&[7u8; 100]).unwrap();
        let ready = sink.take();
        assert_eq!(ready, [Bytes::from("abcd"), page.clone(), page.clone()]);
        assert_eq!(ready[1].as_ptr(), page.as_ptr());
        assert!(sink.take().is_empty());
    }
}
