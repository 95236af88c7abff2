//! Takes the ELF kernel out of a bzImage, so that it boots by PVH without the time it would take to unpack itself.
//!
//! The setup header says where the payload is; Debian compresses it as an LZ4 legacy frame: a magic number, then blocks, each a
//! 32-bit length and that many bytes that unpack to at most 8 MiB. The kernel's build appends the unpacked size as four more
//! bytes. Invariant: what is returned is an ELF file of exactly that size. Sources: Linux's
//! `Documentation/arch/x86/boot.rst`, and LZ4's frame format description ("Legacy frame").

use anyhow::{Context, Result, bail, ensure};

const BLOCK_MAX: usize = 8 << 20;
/// No kernel is this big; a wrong length is found before memory is asked for.
const KERNEL_MAX: usize = 512 << 20;
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// What other compressed payloads begin with.
const OTHERS: [(&str, &[u8]); 6] = [
    ("gzip", &[0x1f, 0x8b]),
    ("xz", &[0xfd, b'7', b'z', b'X', b'Z', 0]),
    ("zstd", &[0x28, 0xb5, 0x2f, 0xfd]),
    ("bzip2", b"BZh"),
    ("lzop", &[0x89, b'L', b'Z', b'O']),
    ("lzma", &[0x5d, 0, 0]),
];

/// The ELF kernel inside a bzImage.
///
/// # Errors
/// It is no bzImage, is compressed in another way than LZ4, or is damaged.
pub fn extract(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image)?;
    if payload.starts_with(b"\x7fELF") {
        return Ok(payload.to_vec());
    }
    let Some(blocks) = payload.strip_prefix(&LZ4_LEGACY) else {
        let named = OTHERS.iter().find(|(_, magic)| payload.starts_with(magic));
        bail!(
            "its kernel is compressed with {}, and only LZ4 is understood here",
            named.map_or("something unknown", |(name, _)| name)
        );
    };
    let (blocks, size) = blocks.split_last_chunk::<4>().context("its payload is cut short")?;
    let size = u32::from_le_bytes(*size) as usize;
    ensure!(size <= KERNEL_MAX, "its kernel claims to have {size} bytes");
    let kernel = unpack(blocks, size)?;
    ensure!(kernel.len() == size, "its kernel unpacks to {} bytes instead of {size}", kernel.len());
    ensure!(kernel.starts_with(b"\x7fELF"), "its payload is not an ELF kernel");
    Ok(kernel)
}

/// The compressed kernel, as the setup header describes it.
fn payload(image: &[u8]) -> Result<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_le_bytes).context("it is too short for a bzImage")
    };
    ensure!(word(0x202)? == u32::from_le_bytes(*b"HdrS"), "it is not a bzImage");
    let version = word(0x206)? & 0xffff;
    ensure!(version >= 0x208, "its boot protocol, {version:#x}, does not say where the kernel is");
    // Zero stands for four, for the sake of very old boot loaders.
    let setup_sectors = match word(0x1f1)? & 0xff {
        0 => 4,
        sectors => sectors as usize,
    };
    let start = (setup_sectors + 1) * 512 + word(0x248)? as usize;
    let payload = image.get(start..).and_then(|rest| rest.get(..word(0x24c).ok()? as usize));
    payload.context("its header points beyond its end")
}

/// Unpacks the blocks of a legacy frame.
fn unpack(mut blocks: &[u8], size: usize) -> Result<Vec<u8>> {
    let mut kernel = Vec::with_capacity(size);
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (block, rest) = rest.split_at_checked(length).context("its payload is cut short")?;
        let room = size.saturating_sub(kernel.len()).min(BLOCK_MAX);
        let unpacked = lz4_flex::block::decompress(block, room).context("its payload is damaged")?;
        kernel.extend_from_slice(&unpacked);
        blocks = rest;
    }
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage with one setup sector and this payload at offset 16 behind it.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024 + 16];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    fn frame(parts: &[&[u8]]) -> Vec<u8> {
        let mut frame = LZ4_LEGACY.to_vec();
        for part in parts {
            let block = lz4_flex::block::compress(part);
            frame.extend_from_slice(&(block.len() as u32).to_le_bytes());
            frame.extend_from_slice(&block);
        }
        let size: usize = parts.iter().map(|part| part.len()).sum();
        frame.extend_from_slice(&(size as u32).to_le_bytes());
        frame
    }

    #[test]
    fn blocks_are_joined() {
        let (first, second) = ([&b"\x7fELF"[..], &[7; 5000]].concat(), [9; 100]);
        let kernel = extract(&image(&frame(&[&first, &second]))).unwrap();
        assert_eq!(kernel, [&first[..], &second].concat());
    }

    #[test]
    fn other_compressions_are_named() {
        let error = extract(&image(b"\x28\xb5\x2f\xfd....")).unwrap_err().to_string();
        assert!(error.contains("zstd"), "{error}");
        assert!(extract(&image(b"????????")).unwrap_err().to_string().contains("unknown"));
    }

    #[test]
    fn damage_is_an_error() {
        let whole = image(&frame(&[b"\x7fELF and more and more and more and more"]));
        assert!(extract(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(extract(&whole[..length]).is_err(), "{length}");
        }
        let mut wrong_size = whole.clone();
        *wrong_size.last_mut().unwrap() = 0xff;
        assert!(extract(&wrong_size).is_err());
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0xff;
            // Any answer but a panic.
            let _ = extract(&flipped);
        }
    }
}
