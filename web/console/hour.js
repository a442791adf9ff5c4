// The last hour, minute by minute, as charts and tables show it: what is drawn where, and what it says. Pure.

import { clock, count, money } from "./format.js";

/** An hour, and the minute that is under way. */
export const MINUTES = 61;
const MINUTE = 60_000;

/** Each minute of the hour before `view.at`, the oldest first; `known` from the start of the process on. */
export function hour({ at, startedAt, minutes }) {
  const last = Math.floor(new Date(at) / MINUTE) * MINUTE;
  const there = new Map(minutes.map((minute) => [Number(new Date(minute.start)), minute]));
  return Array.from({ length: MINUTES }, (_, index) => {
    const start = last - (MINUTES - 1 - index) * MINUTE;
    const { requests = 0, errors = 0, p95 = null, completed = 0, failed = 0, cost = 0 } = there.get(start) ?? {};
    return { start, known: start + MINUTE > new Date(startedAt), requests, errors, p95, completed, failed, micros: Math.round(cost * 1e6) };
  });
}

/** Milliseconds: `5 ms`, `2.5 s`. */
export function millis(number) {
  return number < 1000 ? `${number} ms` : `${number / 1000} s`;
}

/** The highest class of times has no end. */
const LAST_CLASS = 10_000;

/** The time of 95 of 100 answers: the bound of its class. */
export function p95Text(number) {
  if (number === null) return "–";
  return number < LAST_CLASS ? `below ${millis(number)}` : `${millis(LAST_CLASS)} or more`;
}

const micros = (number) => money(number / 1e6);
const plain = (number) => number.toLocaleString("en-US");
const sum = (minutes, of) => minutes.reduce((total, minute) => total + of(minute), 0);

/** What all charts of the page are: what is in a bar from below, how its height is written, and what the hour says. */
export const CHARTS = [
  {
    name: "Requests a minute", unit: 1, label: plain,
    parts: [{ name: "answered", of: (minute) => minute.requests - minute.errors }, { name: "fault of the service (5xx)", of: (minute) => minute.errors, bad: true }],
    says: (minutes) => `${count(sum(minutes, (minute) => minute.requests), "request")}, ${plain(sum(minutes, (minute) => minute.errors))} with 5xx`,
  },
  {
    name: "Pictures a minute", unit: 1, label: plain,
    parts: [{ name: "made", of: (minute) => minute.completed }, { name: "failed", of: (minute) => minute.failed, bad: true }],
    says: (minutes) => `${plain(sum(minutes, (minute) => minute.completed))} made, ${plain(sum(minutes, (minute) => minute.failed))} failed`,
  },
  {
    name: "Charged a minute", unit: 10_000, label: micros, parts: [{ name: "charged", of: (minute) => minute.micros }],
    says: (minutes) => `${micros(sum(minutes, (minute) => minute.micros))} charged`,
  },
  {
    name: "Time of answers (p95)", unit: 1, label: millis, top: "Slowest minute", value: p95Text, parts: [{ name: "95 of 100 answers within", of: (minute) => minute.p95 ?? 0 }],
    says: (minutes) => {
      const timed = minutes.filter(({ p95 }) => p95 !== null);
      return timed.length ? `95 of 100 answers ${p95Text(timed.at(-1).p95)} at last` : "No answer was timed";
    },
  },
];

/** The height of a minute's bar. */
export const height = ({ parts }, minute) => sum(parts, ({ of }) => of(minute));

/** What a chart says, in a sentence: the hour's sum, and its highest minute. */
export function caption(chart, minutes) {
  const highest = minutes.reduce((best, minute) => (height(chart, minute) > height(chart, best) ? minute : best));
  const most = height(chart, highest);
  const says = chart.says(minutes);
  return most > 0 ? `${says}. ${chart.top ?? "Most"}: ${(chart.value ?? chart.label)(most)}, at ${clock(highest.start)}.` : `${says}.`;
}

/** Where an axis up to `most` has its marks: two to four steps of 1, 2 or 5 times a power of ten, at least of `unit`. */
export function marks(most, unit) {
  const least = Math.max(most / 4, unit);
  const power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= least * (1 - 1e-9));
  const steps = Math.max(1, Math.ceil(most / step - 1e-9));
  return Array.from({ length: steps + 1 }, (_, index) => Math.round(index * step));
}

/** The least that is seen of a part, in pixels: one fault among a thousand answers is seen. */
const SEEN = 3;

/** The bars of a chart in a field of this size, in pixels from its upper left: `{x, y, width, height, bad, minute}`. */
export function bars(chart, minutes, top, size) {
  const band = size.width / minutes.length;
  const width = Math.max(1, band - (band > 6 ? 2 : 1));
  return minutes.flatMap((minute, index) => {
    let y = size.height;
    return chart.parts.filter(({ of }) => of(minute) > 0).map(({ of, bad = false }) => {
      const tall = Math.max(SEEN, (of(minute) / top) * size.height);
      y = Math.max(0, y - tall);
      return { x: index * band + (band - width) / 2, y, width, height: Math.min(tall, size.height), bad, minute };
    });
  });
}

/** The minutes that begin a quarter of an hour, with their place from 0 to 1. */
export function quarters(minutes) {
  return minutes.flatMap(({ start }, index) => (new Date(start).getMinutes() % 15 === 0 ? [{ start, place: (index + 0.5) / minutes.length }] : []));
}
