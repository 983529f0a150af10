// Copies a verdict: its words as Markdown, its picture as SVG or PNG. Where a browser lets the page write no
// clipboard, because the panel is not reached by https, it saves a file.
const KINDS = [["Markdown", "md", "text/markdown"], ["SVG", "svg", "image/svg+xml"], ["PNG", "png", "image/png"]];
const SCALE = 2; // pixels of the PNG for one of the picture

async function asPng(svg) {
  const picture = new Image();
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await picture.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: SCALE * picture.width, height: SCALE * picture.height });
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  return new Promise((done, fail) => canvas.toBlob((made) => (made ? done(made) : fail(new Error("no PNG was made"))), "image/png"));
}

function save(content, ending, type) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  Object.assign(document.createElement("a"), { href: address, download: `verdict.${ending}` }).click();
  URL.revokeObjectURL(address);
}

async function copy(box, [name, ending, type]) {
  const { markdown, svg } = box.data;
  const tell = (text) => {
    box.querySelector("[role=status]").textContent = text;
  };
  let content = name === "SVG" ? svg : markdown;
  if (name === "PNG") {
    try {
      content = await asPng(svg);
    } catch {
      return tell("This browser cannot make a PNG of the picture. Copy it as SVG.");
    }
  }
  let told = `copied as ${name}`;
  try {
    if (name === "PNG") await navigator.clipboard.write([new ClipboardItem({ [type]: content })]);
    else await navigator.clipboard.writeText(content);
  } catch {
    save(content, ending, type);
    told = `saved as verdict.${ending}`;
  }
  tell(told);
}

export default function ({ data, parentElement }) {
  let box = parentElement.querySelector(".share");
  if (!box) {
    box = Object.assign(document.createElement("p"), { className: "share quiet", innerHTML: "<span>Copy as</span>" });
    for (const kind of KINDS) {
      const button = Object.assign(document.createElement("button"), { type: "button", className: "plain", textContent: kind[0] });
      button.ariaLabel = `Copy the verdict as ${kind[0]}`;
      button.onclick = () => copy(box, kind);
      box.append(button);
    }
    box.insertAdjacentHTML("beforeend", '<span role="status"></span>');
    parentElement.append(box);
  }
  box.data = data;
}
