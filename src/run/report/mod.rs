//! stub
use std::path::*;
/// w
pub fn write(dir: &Path) -> anyhow::Result<PathBuf> {
    Ok(dir.into())
}
