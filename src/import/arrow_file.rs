//! Arrow files (`.arrow`, Feather 2): a footer that lists record batches, of which one at a time is fetched and decoded.
//!
//! What the footer and a batch's own header state is compared with the file, and with what memory can be spared, before it
//! is believed: offsets, sizes, and how large compressed columns say that they become.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::{Block, MetadataVersion, root_as_footer, root_as_message};

use crate::error::{Error, Result};
use crate::import::tables::damaged;
use crate::import::{Place, plausible};

/// The end of a file: the footer's length and a magic.
const END_BYTES: u64 = 10;
/// Bytes of a footer, at most: it has 24 for each record batch.
const FOOTER_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a record batch, as it lies and decompressed, at most.
const BATCH_BYTES_MAX: u64 = 4 << 30;
/// A compressed column that is not: it would have grown.
const NOT_COMPRESSED: i64 = -1;

/// An Arrow file, opened.
pub(super) struct ArrowFile {
    file: Place,
    schema: SchemaRef,
    version: MetadataVersion,
    blocks: Vec<Block>,
}

impl ArrowFile {
    /// Read the footer.
    pub(super) fn open(file: Place) -> Result<Self> {
        let at = file.size().checked_sub(END_BYTES).ok_or_else(|| damaged(&"it is too short"))?;
        let end: [u8; END_BYTES as usize] = file.at(at, END_BYTES as usize)?[..].try_into().map_err(|e| damaged(&e))?;
        let length = read_footer_length(end).map_err(|e| damaged(&e))?;
        plausible("the size of the footer", length as u64, FOOTER_BYTES_MAX.min(at))?;
        let footer = file.at(at - length as u64, length)?;
        let footer = root_as_footer(&footer).map_err(|e| damaged(&e))?;
        let schema = footer.schema().ok_or_else(|| damaged(&"its footer has no schema"))?;
        if !schema.endianness().equals_to_target_endianness() {
            return Err(damaged(&"its numbers are big-endian"));
        }
        let schema = Arc::new(try_fb_to_schema(schema).map_err(|e| damaged(&e))?);
        let blocks = footer.recordBatches().map(|blocks| blocks.iter().copied().collect()).unwrap_or_default();
        Ok(Self { schema, version: footer.version(), blocks, file })
    }

    /// Names and types of the columns.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The record batches in order, with `columns` (ascending) alone.
    pub(super) fn batches(self, columns: Vec<usize>) -> impl Iterator<Item = Result<RecordBatch>> + Send {
        let decoder = FileDecoder::new(self.schema, self.version).with_projection(columns);
        let file = self.file;
        self.blocks.into_iter().filter_map(move |block| read(&file, &block, &decoder).transpose())
    }
}

/// The record batch at `block`; `None` of an empty message.
fn read(file: &Place, block: &Block, decoder: &FileDecoder) -> Result<Option<RecordBatch>> {
    let number = |n: i64| u64::try_from(n).map_err(|_| damaged(&"its footer has a negative offset or size"));
    let (offset, header, body) =
        (number(block.offset())?, number(i64::from(block.metaDataLength()))?, number(block.bodyLength())?);
    let length = plausible("the size of a record batch", header.saturating_add(body), BATCH_BYTES_MAX)?;
    let bytes = file.at(offset, length)?;
    check_decompressed(&bytes, header as usize)?;
    decoder.read_record_batch(block, &Buffer::from(bytes)).map_err(|e| damaged(&e))
}

/// Compressed columns state their size, and the library believes it.
fn check_decompressed(bytes: &[u8], header: usize) -> Result<()> {
    let wrong = || damaged(&"the header of a record batch is not one");
    let message = bytes.get(..header).ok_or_else(wrong)?;
    let message = match message {
        [0xff, 0xff, 0xff, 0xff, _, _, _, _, rest @ ..] | [_, _, _, _, rest @ ..] => rest,
        _ => return Err(wrong()),
    };
    let message = root_as_message(message).map_err(|e| damaged(&e))?;
    let Some(batch) = message.header_as_record_batch().filter(|batch| batch.compression().is_some()) else {
        return Ok(());
    };
    let mut decompressed = 0u64;
    for buffer in batch.buffers().into_iter().flatten().filter(|buffer| buffer.length() > 0) {
        let at = usize::try_from(buffer.offset()).ok().and_then(|from| from.checked_add(header)).ok_or_else(wrong)?;
        let stated = at.checked_add(8).and_then(|end| bytes.get(at..end)).ok_or_else(wrong)?;
        let stated = match i64::from_le_bytes(stated.try_into().map_err(|_| wrong())?) {
            NOT_COMPRESSED => buffer.length(),
            stated => stated,
        };
        decompressed = decompressed.saturating_add(u64::try_from(stated).map_err(|_| wrong())?);
    }
    if decompressed > BATCH_BYTES_MAX {
        return Err(Error::data(format!(
            "a record batch would have {decompressed} bytes, which cannot be held (at most {BATCH_BYTES_MAX}): write it in \
             smaller ones, as with `chunksize=` of pyarrow's write_feather"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float32Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::{FileWriter, IpcWriteOptions};

    use super::*;
    use crate::import::ranges::RangeReader;
    use crate::store::{Location, objects};

    /// A file of three batches of 1000 zeros.
    fn file(compression: CompressionType) -> Vec<u8> {
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Float32, false)]));
        let options = IpcWriteOptions::default().try_with_compression(Some(compression)).unwrap();
        let mut writer = FileWriter::try_new_with_options(Vec::new(), &schema, options).unwrap();
        let column = Arc::new(Float32Array::from(vec![0.0; 1000]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap();
        (0..3).for_each(|_| writer.write(&batch).unwrap());
        writer.into_inner().unwrap()
    }

    /// Rows of all batches.
    async fn read_all(name: &str, bytes: Vec<u8>) -> Result<usize> {
        let place = Location::open(&format!("memory://arrow-file/{name}")).unwrap();
        let size = bytes.len() as u64;
        objects::replace(&place, bytes.into()).await.unwrap();
        let file = Arc::new(RangeReader::new(place, size, tokio::runtime::Handle::current()));
        let read = move || {
            let mut rows = 0;
            for batch in ArrowFile::open(file)?.batches(vec![0]) {
                rows += batch?.num_rows();
            }
            Ok(rows)
        };
        crate::import::blocking(read).await.and_then(|rows| rows)
    }

    #[tokio::test]
    async fn a_size_that_cannot_be_is_an_error_and_no_allocation() {
        for compression in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
            let whole = file(compression);
            assert_eq!(read_all("whole", whole.clone()).await.unwrap(), 3000);
            // 4000 bytes, as the first compressed column states them
            let at = whole.windows(8).position(|bytes| bytes == 4000i64.to_le_bytes()).unwrap();
            for (stated, says) in [(1i64 << 60, "cannot be held"), (-2, "is not one"), (1 << 20, "cannot be read")] {
                let mut bytes = whole.clone();
                bytes[at..at + 8].copy_from_slice(&stated.to_le_bytes());
                let error = read_all("huge", bytes).await.unwrap_err();
                assert!(error.to_string().contains(says), "{stated}: {error}");
            }
        }
        for (cut, says) in [(5, "too short"), (200, "footer")] {
            let error = read_all("cut", file(CompressionType::ZSTD)[..cut].to_vec()).await.unwrap_err().to_string();
            assert!(error.contains(says), "{cut}: {error}");
        }
    }

    #[tokio::test]
    async fn any_damaged_byte_is_an_error_or_harmless() {
        let whole = file(CompressionType::LZ4_FRAME);
        let mut refused = 0;
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x91;
            match read_all("byte", bytes).await {
                Ok(rows) => assert!(rows <= 3000),
                Err(error) => {
                    assert_eq!(error.kind(), crate::error::ErrorKind::Data, "{error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 100, "{refused}");
    }
}
