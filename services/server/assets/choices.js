// @ts-check
// A list of choices below a text field, for the keyboard and the mouse: the combobox pattern of ARIA.

/** @typedef {{ text: string, note?: string, value: string }} Choice */

let lists = 0;

export class Choices {
  /** @param {HTMLInputElement | HTMLTextAreaElement} input @param {HTMLElement} place @param {(choice: Choice) => void} choose @param {string} label */
  constructor(input, place, choose, label) {
    this.input = input;
    this.choose = choose;
    /** @type {Choice[]} */
    this.choices = [];
    this.at = -1;
    this.list = document.createElement("ul");
    this.list.className = "choices";
    this.list.id = `choices-${lists += 1}`;
    this.list.setAttribute("role", "listbox");
    this.list.setAttribute("aria-label", label);
    this.list.hidden = true;
    place.append(this.list);
    // A field of several lines may not be a combobox; it stays a text field with completion, where Tab completes. Elsewhere Tab only moves the focus.
    this.isCombobox = input instanceof HTMLInputElement;
    if (this.isCombobox) input.setAttribute("role", "combobox");
    input.setAttribute("aria-autocomplete", "list");
    input.setAttribute("aria-controls", this.list.id);
    if (this.isCombobox) input.setAttribute("aria-expanded", "false");
    input.addEventListener("keydown", (event) => this.key(/** @type {KeyboardEvent} */ (event)));
    this.list.addEventListener("mousedown", (event) => {
      event.preventDefault();
      const item = /** @type {HTMLElement} */ (event.target).closest("li");
      if (item) this.take([...this.list.children].indexOf(item));
    });
  }

  /** @param {Choice[]} choices @param {number} selected */
  show(choices, selected) {
    this.choices = choices;
    this.list.replaceChildren(...choices.map((choice, index) => {
      const item = document.createElement("li");
      item.id = `${this.list.id}-${index}`;
      item.setAttribute("role", "option");
      const text = document.createElement("span");
      text.textContent = choice.text;
      item.append(text);
      if (choice.note) {
        const note = document.createElement("small");
        note.textContent = choice.note;
        item.append(note);
      }
      return item;
    }));
    this.list.hidden = choices.length === 0;
    if (this.isCombobox) this.input.setAttribute("aria-expanded", String(choices.length > 0));
    this.select(choices.length > 0 ? selected : -1);
  }

  hide() {
    this.show([], -1);
  }

  /** @param {number} index */
  select(index) {
    this.at = index;
    [...this.list.children].forEach((item, at) => item.setAttribute("aria-selected", String(at === index)));
    const item = this.list.children[index];
    if (item) {
      this.input.setAttribute("aria-activedescendant", item.id);
      item.scrollIntoView({ block: "nearest" });
    } else this.input.removeAttribute("aria-activedescendant");
  }

  /** @param {number} index */
  take(index) {
    const choice = this.choices[index];
    if (choice) this.choose(choice);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const count = this.choices.length;
    // While characters are composed, keys are those of the input method.
    if (count === 0 || event.isComposing) return;
    if (event.key === "ArrowDown") this.select((this.at + 1) % count);
    else if (event.key === "ArrowUp") this.select((this.at + count - 1) % count);
    else if (this.at >= 0 && (event.key === "Enter" || (event.key === "Tab" && !event.shiftKey && !this.isCombobox))) this.take(this.at);
    else if (event.key === "Escape") this.hide();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
