// Draws the charts of the last hour. What is where says hour.js; here it becomes a drawing, with the words beside it.

import { drawn, h } from "./dom.js";
import { clock } from "./format.js";
import { bars, caption, height, marks, quarters } from "./hour.js";

const HEIGHT = 168;
/** Room for the letters around the field, in pixels; that on the left grows with its labels. */
const ROOM = { top: 14, right: 8, bottom: 22, letter: 7 };

/** A chart on the page. */
export class Chart {
  element;
  #chart;
  #minutes;
  #caption = h("p", { class: "soft" });
  #drawing;

  constructor(chart, index) {
    this.#chart = chart;
    const [name, says] = [`chart-${index}`, `chart-${index}-says`];
    this.#caption.id = says;
    this.#drawing = drawn("svg", { class: "chart", height: HEIGHT, role: "img", "aria-labelledby": name, "aria-describedby": says });
    const legend = chart.parts.length > 1 && h("ul", { class: "legend" }, chart.parts.map((part) =>
      h("li", {}, h("span", { class: part.bad ? "swatch fault-column" : "swatch", "aria-hidden": "true" }), part.name)));
    this.element = h("figure", { class: "card" }, h("figcaption", {}, h("h3", { id: name }, chart.name), this.#caption), this.#drawing, legend);
    // Letters keep their size: the drawing is made anew for each width.
    new ResizeObserver(() => this.#draw()).observe(this.element);
  }

  show(minutes) {
    this.#minutes = minutes;
    const says = caption(this.#chart, minutes);
    if (this.#caption.textContent !== says) this.#caption.textContent = says;
    this.#draw();
  }

  #draw() {
    const [chart, minutes, width] = [this.#chart, this.#minutes, this.#drawing.clientWidth];
    if (!minutes || !width) return;
    const axis = marks(Math.max(...minutes.map((minute) => height(chart, minute))), chart.unit);
    const [top, labels] = [axis.at(-1), axis.map(chart.label)];
    const left = Math.max(...labels.map((label) => label.length)) * ROOM.letter + 10;
    const field = { width: width - left - ROOM.right, height: HEIGHT - ROOM.top - ROOM.bottom };
    const at = (mark) => field.height - (mark / top) * field.height;
    const known = minutes.findIndex(({ known }) => known) * (field.width / minutes.length);
    this.#drawing.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.#drawing.replaceChildren(drawn("g", { transform: `translate(${left} ${ROOM.top})` },
      known > 0 && drawn("rect", { class: "before", width: known, height: field.height }),
      axis.flatMap((mark, index) => [
        drawn("line", { x2: field.width, y1: at(mark), y2: at(mark) }),
        drawn("text", { x: -8, y: at(mark) + 4, "text-anchor": "end" }, labels[index]),
      ]),
      known > BEFORE.length * ROOM.letter && drawn("text", { x: known / 2, y: field.height - 8, "text-anchor": "middle" }, BEFORE),
      quarters(minutes).flatMap(({ start, place }) => [
        drawn("line", { class: "tick", x1: place * field.width, x2: place * field.width, y1: field.height, y2: field.height + 4 }),
        drawn("text", { x: place * field.width, y: field.height + 17, "text-anchor": "middle" }, clock(start)),
      ]),
      bars(chart, minutes, top, field).flatMap((bar) => this.#bar(bar))));
  }

  /** A bar; what is bad has a mark above it too, for those to whom colours say little. */
  #bar({ bad, minute, ...place }) {
    const says = this.#chart.parts.map(({ name, of }) => `${name}: ${(this.#chart.value ?? this.#chart.label)(of(minute))}`);
    const [middle, above] = [place.x + place.width / 2, place.y - 3];
    return [
      drawn("rect", { class: bad ? "fault-column" : "column", ...place }, drawn("title", {}, `${clock(minute.start)}, ${says.join(", ")}`)),
      bad && drawn("path", { class: "fault-column", d: `M${middle - 4} ${above - 6}h8l-4 6z` }),
    ];
  }
}

const BEFORE = "before its start";
