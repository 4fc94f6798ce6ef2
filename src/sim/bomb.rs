//! Gzip that holds a thousand times its size: one deflated piece, over and over.
//!
//! Nothing of that size is ever held or compressed here. It is proper gzip to its last byte; the JSON
//! in it never ends.

use flate2::{Compress, Compression, Crc, FlushCompress};

/// How much one piece holds.
const PIECE: usize = 1 << 20;

/// How many pieces there are: 300 MB.
const PIECES: usize = 300;

const BEGIN: &[u8] = b"{\"success\":true,\"errors\":[],\"messages\":[],\"result\":";

/// A gzip header without name or time, from an unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 0xff];

/// The last block of a deflate stream, with nothing in it.
const LAST: [u8; 5] = [1, 0, 0, 0xff, 0xff];

/// The bomb: the beginning of an envelope, and one byte some hundred million times.
pub(super) fn bomb(fill: u8) -> Vec<u8> {
    let piece = vec![fill; PIECE];
    let (begin, deflated) = (deflate(BEGIN), deflate(&piece));
    let (mut sum, mut of_piece) = (Crc::new(), Crc::new());
    sum.update(BEGIN);
    of_piece.update(&piece);
    let mut bytes = Vec::with_capacity(begin.len() + PIECES * deflated.len() + 32);
    bytes.extend(HEADER);
    bytes.extend(begin);
    for _ in 0..PIECES {
        bytes.extend(&deflated);
        sum.combine(&of_piece);
    }
    bytes.extend(LAST);
    bytes.extend(sum.sum().to_le_bytes());
    bytes.extend(sum.amount().to_le_bytes());
    bytes
}

/// Blocks of a deflate stream that refer to nothing before them and end on a byte.
fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() / 64 + 256);
    let done = Compress::new(Compression::best(), false).compress_vec(bytes, &mut out, FlushCompress::Full);
    done.expect("a fresh compressor takes any bytes");
    out
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn it_is_small_and_inflates_to_hundreds_of_megabytes() {
        let bytes = bomb(b' ');
        assert!((200_000..900_000).contains(&bytes.len()), "{}", bytes.len());
        let (mut decoder, mut buffer) = (GzDecoder::new(bytes.as_slice()), vec![0; PIECE]);
        decoder.read_exact(&mut buffer[..BEGIN.len()]).expect("gzip");
        assert_eq!(&buffer[..BEGIN.len()], BEGIN);
        let mut length = 0;
        loop {
            // The decoder holds the checksum and the length against the end of the stream.
            let read = decoder.read(&mut buffer).expect("gzip to the end");
            if read == 0 {
                break;
            }
            assert!(buffer[..read].iter().all(|byte| *byte == b' '));
            length += read;
        }
        assert_eq!(length, PIECES * PIECE);
    }
}
