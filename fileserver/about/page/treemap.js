// A rectangle for each file, its area the file's bytes: squarified (Bruls, Huizing, van Wijk 2000).

// The rectangles [x, y, width, height] of `sizes`, which are positive and descending, side by side in the given one.
function squarify(sizes, x, y, width, height) {
  const scale = (width * height) / sizes.reduce((sum, size) => sum + size, 0);
  const areas = sizes.map((size) => size * scale);
  const found = [];
  let start = 0;
  while (start < areas.length) {
    // A row along the shorter side takes further files as long as that makes its worst rectangle squarer.
    const side = Math.min(width, height);
    let end = start, sum = 0, worst = Infinity;
    while (end < areas.length) {
      const larger = sum + areas[end];
      const ratio = Math.max((side ** 2 * areas[start]) / larger ** 2, larger ** 2 / (side ** 2 * areas[end]));
      if (ratio > worst) break;
      [sum, worst, end] = [larger, ratio, end + 1];
    }
    const depth = side > 0 ? sum / side : 0;
    let along = 0;
    for (const area of areas.slice(start, end)) {
      const length = depth > 0 ? area / depth : 0;
      found.push(width >= height ? [x, y + along, depth, length] : [x + along, y, length, depth]);
      along += length;
    }
    if (width >= height) [x, width] = [x + depth, Math.max(0, width - depth)];
    else [y, height] = [y + depth, Math.max(0, height - depth)];
    start = end;
  }
  return found;
}

class Treemap {
  constructor(node, tip) {
    this.node = node;
    this.tip = tip;
    this.boxes = new Map();
    this.entries = [];
    this.others = { entries: 0, size: 0 };
    this.heat = "hits";
    this.drawn = "";
    node.addEventListener("pointermove", (event) => this.hover(event));
    node.addEventListener("pointerleave", () => { tip.hidden = true; });
    node.addEventListener("pointerdown", (event) => { this.finger = event.pointerType === "touch"; });
    node.addEventListener("click", (event) => this.touch(event));
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
    document.addEventListener("pointerdown", (event) => { if (!node.contains(event.target)) tip.hidden = true; });
    new ResizeObserver(() => this.draw()).observe(node);
  }

  update(entries, others) {
    this.entries = entries.filter((entry) => entry.size > 0).sort((a, b) => b.size - a.size);
    this.others = others;
    this.draw();
    if (this.hovered?.isConnected) this.describe(this.hovered);
    else this.tip.hidden = true;
  }

  colourBy(heat) {
    this.heat = heat;
    this.draw();
  }

  draw() {
    const tiles = this.entries.map((entry) => ({ key: `/${entry.name}`, size: entry.size, entry }));
    if (this.others.size > 0) {
      tiles.push({ key: "", size: this.others.size, entry: null });
      tiles.sort((a, b) => b.size - a.size);
    }
    const { clientWidth: width, clientHeight: height } = this.node;
    const layout = JSON.stringify([width, height, tiles.map((tile) => [tile.key, tile.size])]);
    if (layout !== this.drawn) {
      this.drawn = layout;
      this.place(tiles, squarify(tiles.map((tile) => tile.size), 0, 0, width, height));
    }
    const heats = this.heats();
    for (const tile of tiles) {
      const box = this.boxes.get(tile.key);
      box.entry = tile.entry;
      if (tile.entry) box.style.setProperty("--heat", `${Math.round(100 * heats(tile.entry))}%`);
    }
  }

  place(tiles, places) {
    const before = this.boxes;
    this.boxes = new Map();
    tiles.forEach((tile, index) => {
      const [x, y, width, height] = places[index];
      const box = before.get(tile.key) ?? this.box(tile);
      before.delete(tile.key);
      this.boxes.set(tile.key, box);
      Object.assign(box.style, { left: `${x}px`, top: `${y}px`, width: `${width}px`, height: `${height}px` });
      const name = tile.entry ? nameText(tile.entry.name.split("/").pop()) : `${countText(this.others.entries)} others`;
      say(box, width > 34 && height > 17 ? name : "");
    });
    for (const gone of before.values()) gone.remove();
  }

  box(tile) {
    const box = element("a", tile.entry
      ? { href: fileLink(tile.entry.name), download: tile.entry.name.split("/").pop(), tabIndex: -1 }
      : { href: "/-/cache", className: "others", tabIndex: -1 });
    this.node.append(box);
    return box;
  }

  heats() {
    const measure = this.heat === "hits" ? (entry) => Math.log1p(entry.hits) : (entry) => -Math.log1p(entry.idle_s);
    const all = this.entries.map(measure);
    const low = this.heat === "hits" ? 0 : Math.min(...all);
    const span = Math.max(...all) - low;
    return (entry) => (span > 0 ? (measure(entry) - low) / span : 0);
  }

  hover(event) {
    this.hovered = event.target.closest("a");
    this.tip.hidden = !this.hovered;
    if (!this.hovered) return;
    this.describe(this.hovered);
    const { offsetWidth: width, offsetHeight: height } = this.tip;
    const left = Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 4));
    const below = event.clientY + 18;
    const top = below + height < innerHeight ? below : Math.max(4, event.clientY - height - 10);
    Object.assign(this.tip.style, { left: `${left}px`, top: `${top}px` });
  }

  // A finger cannot hover: its first tap tells, the second one downloads.
  touch(event) {
    const again = event.target === this.touched;
    this.touched = null;
    if (!this.finger || again) return;
    event.preventDefault();
    this.touched = event.target;
    this.hover(event);
  }

  describe(box) {
    const entry = box.entry;
    say(this.tip, entry
      ? `${nameText(entry.name)}\n${bytesText(entry.size)}, ${counted(entry.hits, "hit")}\n` +
        `cached for ${secondsText(entry.age_s)}, unused for ${secondsText(entry.idle_s)}\n` +
        counted(entry.readers, "reader")
      : `${countText(this.others.entries)} others\n${bytesText(this.others.size)}`);
  }
}
