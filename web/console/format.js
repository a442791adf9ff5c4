// Numbers and times as people read them. Pure.

/** An amount of US dollars: whole cents, and as much more as a small one needs. */
export function money(amount) {
  if (amount === null || amount === undefined) return "–";
  const digits = Math.abs(amount) >= 1 || Number((amount * 100).toFixed(6)) % 1 === 0 ? 2 : 4;
  return `$${amount.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: digits })}`;
}

/** A number of things: `1 picture`, `2 pictures`. */
export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en-US")} ${number === 1 ? one : many}`;
}

const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const YEAR = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

/** A moment: with its day unless it is today, with its year unless it is this one. */
export function when(text, now = new Date()) {
  const time = new Date(text);
  if (time.toDateString() === now.toDateString()) return `today, ${CLOCK.format(time)}`;
  const day = time.getFullYear() === now.getFullYear() ? DAY : YEAR;
  return `${day.format(time)}, ${CLOCK.format(time)}`;
}

/** The hour and minute of a moment. */
export function clock(text) {
  return CLOCK.format(new Date(text));
}

const SECONDS = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** The hour, minute and second of a moment. */
export function moment(time) {
  return SECONDS.format(new Date(time));
}

/** A span: `42 s`, `3 min 20 s`, `5 h 10 min`, `3 days 4 h`. */
export function span(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days ${hours % 24} h`;
}

/** A size in bytes. */
export function bytes(size) {
  return size < 1 << 20 ? `${Math.max(1, Math.round(size / 1024))} KB` : `${(size / (1 << 20)).toFixed(1)} MB`;
}

/** The texts as a record of a CSV file. What a spreadsheet would run as a formula is made harmless. */
export function csvRecord(cells) {
  // Also behind what may part a cell in two where the list separator is not a comma.
  const safe = (cell) => cell.replace(/(?<=^|[;\t\r\n"])(?=[=+\-@\t\r\n＝＋－＠])/g, "'");
  return `${cells.map((cell) => `"${safe(String(cell)).replaceAll('"', '""')}"`).join(",")}\r\n`;
}
