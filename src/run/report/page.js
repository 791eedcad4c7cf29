// Copies the genotype. Pages opened from a file may be refused the clipboard, so the text is then
// selected and copied the old way.
const button = document.getElementById("copy");
if (button) {
  button.addEventListener("click", async () => {
    const source = document.getElementById("genotype");
    const note = document.getElementById("copied");
    try {
      await navigator.clipboard.writeText(source.textContent);
      note.textContent = "copied";
    } catch {
      const range = document.createRange();
      range.selectNodeContents(source);
      const selection = getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      note.textContent = document.execCommand("copy") ? "copied" : "selected: press Ctrl-C";
    }
  });
}
