// A text that grows on the screen. What is laid out for an addition does not grow with the text: it stands in blocks, and only
// the last one changes. Blocks end where lines end, so the whole looks, and is read, as if it were one.

const maxBlock = 2000; // characters

/**
 * Shows the newest text in this element, in place of what it holds: `attach(url, session, { ontext: textInto(element) })`.
 * @param {Element} element
 * @returns {(text: string, response: string, added: string|undefined) => void}
 */
export function textInto(element) {
  const view = new View(element);
  return (text, response, added) => view.show(text, response, added);
}

class View {
  #element;
  #response = undefined;
  /** In UTF-16 units. */
  #length = 0;
  /** The text of the last block. @type {Text|undefined} */
  #last = undefined;
  /** The length of the last block from which on it is worth to look for its last line. */
  #lookAt = maxBlock;
  #width = 0;

  constructor(element) {
    this.#element = element;
    // In another width the lines end elsewhere.
    if (globalThis.ResizeObserver) new ResizeObserver(() => this.#resized()).observe(element);
  }

  show(text, response, added) {
    if (added === undefined || response !== this.#response || this.#length + added.length !== text.length) {
      this.#response = response;
      this.#draw(text);
    } else {
      this.#add(added);
    }
    this.#length = text.length;
  }

  #draw(text) {
    this.#element.textContent = '';
    this.#last = undefined;
    this.#add(text);
  }

  #add(text) {
    for (let start = 0; start < text.length; ) {
      const end = text.indexOf('\n', start) + 1 || text.length;
      if (this.#last === undefined || this.#last.data.endsWith('\n')) this.#begin('');
      this.#last.appendData(text.slice(start, end));
      start = end;
    }
    if (this.#last?.length > this.#lookAt && !text.endsWith('\n')) this.#split();
  }

  #begin(text) {
    const block = document.createElement('span');
    block.style.display = 'block';
    block.style.whiteSpace = 'pre-wrap';
    this.#last = document.createTextNode(text);
    this.#lookAt = maxBlock;
    block.append(this.#last);
    this.#element.append(block);
  }

  /** The last line of a long paragraph becomes a block of its own. */
  #split() {
    const start = this.#lineStart();
    if (start > 0) {
      this.#width = this.#element.clientWidth;
      const rest = this.#last.data.slice(start);
      this.#last.deleteData(start, rest.length);
      this.#begin(rest);
    }
    this.#lookAt = this.#last.length + maxBlock;
  }

  /** Where the last line begins; 0 where nothing is laid out. */
  #lineStart() {
    const range = document.createRange();
    const bottomOf = (index) => {
      range.setStart(this.#last, index);
      range.setEnd(this.#last, index + 1);
      return range.getBoundingClientRect().bottom;
    };
    let [low, high] = [0, this.#last.length - 1];
    const bottom = bottomOf(high);
    while (low < high) {
      const middle = (low + high) >> 1;
      if (bottomOf(middle) < bottom) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #resized() {
    if (this.#width === 0 || this.#element.clientWidth === this.#width) return;
    this.#width = 0;
    this.#draw(this.#element.textContent);
  }
}
