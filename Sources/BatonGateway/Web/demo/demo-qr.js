// A link as a QR code (ISO/IEC 18004): byte mode, level L, versions 1 to 9, up to 230 bytes of UTF-8.

const dataWords = [0, 19, 34, 55, 80, 108, 136, 156, 194, 232];
const checkWords = [0, 7, 10, 15, 20, 26, 18, 20, 24, 30]; // of each block
const blocks = [0, 1, 1, 1, 1, 1, 2, 2, 2, 2];
const alignments = [[], [], [6, 18], [6, 22], [6, 26], [6, 30], [6, 34], [6, 22, 38], [6, 24, 42], [6, 26, 46]];

export const QRCode = {
  /** @returns {SVGSVGElement} with a quiet zone of four modules; dark on light in any colour scheme */
  svg(text) {
    const modules = this.modules(text);
    const size = modules.length + 8;
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    svg.setAttribute('viewBox', `0 0 ${size} ${size}`);
    svg.setAttribute('role', 'img');
    svg.setAttribute('aria-label', 'QR code of the link below');
    const dark = modules.flatMap((row, y) => row.map((on, x) => (on ? `M${x + 4} ${y + 4}h1v1h-1z` : ''))).join('');
    svg.innerHTML = `<path fill="#fff" d="M0 0h${size}v${size}H0z"/><path fill="#000" shape-rendering="crispEdges" d="${dark}"/>`;
    return svg;
  },

  /** @returns {boolean[][]} rows of modules, true is dark. Throws a RangeError if the text is too long. */
  modules(text) {
    const bytes = new TextEncoder().encode(text);
    const version = dataWords.findIndex((words) => words >= bytes.length + 2);
    if (version < 1) throw new RangeError('more than 230 bytes');
    const grid = new Grid(version);
    grid.place(interleaved(words(bytes, dataWords[version]), version));
    return grid.rows.map((row) => row.map(Boolean));
  },
};

/** Mode 4, an 8-bit count, the bytes, a terminator of four zeros: everything is shifted by half a byte; then padding. */
function words(bytes, total) {
  const nibbles = [4, bytes.length >> 4, bytes.length & 15, ...[...bytes].flatMap((byte) => [byte >> 4, byte & 15]), 0];
  const out = [];
  for (let i = 0; i < nibbles.length; i += 2) out.push((nibbles[i] << 4) | nibbles[i + 1]);
  for (let pad = 0xec; out.length < total; pad ^= 0xec ^ 0x11) out.push(pad);
  return out;
}

function interleaved(data, version) {
  const count = blocks[version];
  const each = data.length / count;
  const parts = Array.from({ length: count }, (_, i) => data.slice(i * each, (i + 1) * each));
  const checks = parts.map((part) => remainder(part, checkWords[version]));
  const column = (rows) => rows[0].flatMap((_, i) => rows.map((row) => row[i]));
  return [...column(parts), ...column(checks)];
}

/** Multiplication in GF(256) over 0x11d. */
function times(a, b) {
  let product = 0;
  for (let bit = 7; bit >= 0; bit--) product = (product << 1) ^ ((product >> 7) * 0x11d) ^ (((b >> bit) & 1) * a);
  return product;
}

/** The Reed–Solomon check words. */
function remainder(data, degree) {
  const divisor = [...Array(degree - 1).fill(0), 1];
  for (let i = 0, root = 1; i < degree; i++, root = times(root, 2)) {
    for (let j = 0; j < degree; j++) divisor[j] = times(divisor[j], root) ^ (divisor[j + 1] ?? 0);
  }
  const rest = Array(degree).fill(0);
  for (const word of data) {
    const factor = word ^ rest.shift();
    rest.push(0);
    divisor.forEach((value, i) => (rest[i] ^= times(value, factor)));
  }
  return rest;
}

class Grid {
  constructor(version) {
    this.size = 17 + 4 * version;
    this.rows = Array.from({ length: this.size }, () => Array(this.size).fill(undefined));
    const last = this.size - 1;
    for (let i = 0; i <= last; i++) this.rows[6][i] = this.rows[i][6] = (i + 1) % 2;
    for (const [x, y] of [[3, 3], [last - 3, 3], [3, last - 3]]) this.#rings(x, y, [1, 1, 0, 1, 0]);
    const places = alignments[version];
    const corners = [`6 6`, `6 ${places.at(-1)}`, `${places.at(-1)} 6`]; // these are finders
    for (const x of places) for (const y of places) if (!corners.includes(`${x} ${y}`)) this.#rings(x, y, [1, 0, 1]);
    this.#format(last);
    if (version >= 7) this.#version(version);
  }

  /** Square rings, from the middle outwards. */
  #rings(x, y, colours) {
    const radius = colours.length - 1;
    for (let dy = -radius; dy <= radius; dy++) {
      for (let dx = -radius; dx <= radius; dx++) this.#set(x + dx, y + dy, colours[Math.max(Math.abs(dx), Math.abs(dy))]);
    }
  }

  #set(x, y, value) {
    if (x >= 0 && y >= 0 && x < this.size && y < this.size) this.rows[y][x] = value;
  }

  /** Level L and mask 0, twice, and the dark module. */
  #format(last) {
    for (let i = 0; i < 15; i++) {
      const bit = (0b111011111000100 >> i) & 1;
      if (i < 8) this.#set(8, i < 6 ? i : i + 1, bit);
      else this.#set(i === 8 ? 7 : 14 - i, 8, bit);
      if (i < 8) this.#set(last - i, 8, bit);
      else this.#set(8, last - 14 + i, bit);
    }
    this.#set(8, last - 7, 1);
  }

  #version(version) {
    let rest = version << 12;
    for (let i = 17; i >= 12; i--) if (rest >> i & 1) rest ^= 0x1f25 << (i - 12);
    const bits = (version << 12) | rest;
    for (let i = 0; i < 18; i++) {
      const [a, b] = [Math.floor(i / 3), this.size - 11 + (i % 3)];
      this.rows[a][b] = this.rows[b][a] = (bits >> i) & 1;
    }
  }

  /** Two columns at a time from the right, up and down, around the timing column; masked where row + column is even. */
  place(data) {
    let bit = 0;
    let up = true;
    for (let right = this.size - 1; right > 0; right -= 2, up = !up) {
      if (right === 6) right = 5;
      for (let i = 0; i < this.size; i++) {
        const y = up ? this.size - 1 - i : i;
        for (const x of [right, right - 1]) {
          if (this.rows[y][x] !== undefined) continue;
          const value = (data[bit >> 3] >> (7 - (bit & 7))) & 1;
          bit += 1;
          this.rows[y][x] = value ^ ((x + y + 1) & 1);
        }
      }
    }
  }
}
