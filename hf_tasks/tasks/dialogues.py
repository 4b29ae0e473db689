"""Sums inside natural language: short scenes in which somebody adds two numbers.

- The prompt ends where the number begins, so that the answer is the sum and what closes the sentence.
- `HELD_OUT` is written in test rows alone, so that test measures scenes never trained on; train and validation share
  `SEEN`.
- No scene may be readable as another one, or a prompt would have two answers; the tests read every scene back.
- All of them were written for this project; Shen et al. 2023 (arXiv 2311.14737, section on natural language) is the
  idea.
"""

from typing import NamedTuple


class Scene(NamedTuple):
    """Text before the sum, with {a} and {b}, and text from it on, with {sum}."""

    prompt: str
    answer: str


SEEN: tuple[Scene, ...] = (
    Scene("Student: What do I get when I add {a} and {b}? Teacher: You get ", "{sum}."),
    Scene("Student: I have to add {a} to {b} for homework. Teacher: Carry with care, the sum is ", "{sum}."),
    Scene("Teacher: Please add {a} and {b} on the board. Student: Let me see, that makes ", "{sum}."),
    Scene("Teacher: Who can tell me {a} plus {b}? Student: I can, it is ", "{sum}!"),
    Scene("Customer: One machine costs {a} and the other {b}. Clerk: Together you pay ", "{sum} dollars."),
    Scene("Customer: I would like to pay both bills, {a} and {b}. Cashier: That comes to ", "{sum} in all."),
    Scene("Cashier: Your items are {a} and {b} cents. Customer: So I owe you ", "{sum} cents."),
    Scene("The farmer picked {a} apples on Monday and {b} on Tuesday. In two days he picked ", "{sum} apples."),
    Scene("A library owned {a} books and bought {b} more. Now it owns ", "{sum} books."),
    Scene("One box holds {a} screws, the next one {b}. Poured together they are ", "{sum} screws."),
    Scene("Anna: My sister walked {a} steps today. Ben: I walked {b}. Anna: Then you two walked ", "{sum} steps."),
    Scene("Ben: I counted {a} red cars. Anna: And I counted {b} blue ones. Ben: We saw ", "{sum} cars."),
    Scene("Pilot: We flew {a} miles before lunch and {b} after it. Tower: That is a day of ", "{sum} miles."),
    Scene("Driver: {a} miles yesterday, {b} miles today. Passenger: So far we made ", "{sum} miles."),
    Scene("Baker: We sold {a} rolls in the morning. Helper: And {b} since noon. Baker: Which makes ", "{sum} rolls."),
    Scene("Captain: How much cargo? Mate: {a} crates below and {b} on deck, that is ", "{sum} crates."),
    Scene("Grandmother had {a} stamps and found {b} in the attic. Her collection grew to ", "{sum} stamps."),
    Scene("The first village has {a} people, the second has {b}. Both villages have ", "{sum} people."),
    Scene("User: Compute {a} + {b}. Assistant: The result is ", "{sum}."),
    Scene("User: could you sum up {a} and {b} for me? Assistant: Sure. The total is ", "{sum}."),
    Scene("User: {a} plus {b}, please. Assistant: Here you are: ", "{sum}"),
    Scene("User: I forgot how much {a} and {b} are. Assistant: No problem, they add up to ", "{sum}."),
    Scene("Question: Tom has {a} marbles and wins {b}. How many has he now? Answer: ", "{sum}"),
    Scene("Question: A tank holds {a} litres and {b} litres are added. What is in it? Answer: ", "{sum} litres"),
    Scene("Question: What is the sum of {a} and {b}? Answer: ", "{sum}."),
    Scene("Engineer: The north pipe carries {a}, the south pipe {b}. Chief: Plan for ", "{sum} then."),
    Scene("Nurse: {a} doses arrived, and {b} were in the fridge. Doctor: Good, so we can use ", "{sum} doses."),
    Scene("Coach: First half {a} points, second half {b}. Player: We finished with ", "{sum} points!"),
    Scene("Gardener: I planted {a} tulips. Neighbour: And I gave you {b}. Gardener: In spring I shall see ", "{sum}."),
    Scene("Clerk: The old debt is {a}. The new one is {b}. Judge: Write down a debt of ", "{sum}."),
    Scene("Reporter: How many votes? Officer: {a} by letter and {b} at the booth, hence ", "{sum} votes."),
    Scene("Child: If I save {a} coins and get {b} more? Mother: Then you will have ", "{sum} coins."),
)

HELD_OUT: tuple[Scene, ...] = (
    Scene("Sailor: {a} knots of rope here, {b} over there. Cook: Tie them up and you have ", "{sum}."),
    Scene("Visitor: The museum shows {a} coins and stores {b}. Guide: In total it keeps ", "{sum} coins."),
    Scene("User: My two numbers are {a} and {b}; add them. Assistant: Adding them gives ", "{sum}."),
    Scene("Question: A herd of {a} sheep meets a herd of {b}. How many sheep are there? Answer: ", "{sum}"),
    Scene("Pupil: Is it hard to add {a} and {b}? Master: Not at all, one finds ", "{sum}."),
    Scene("Shopper: I spent {a} on shoes, then {b} on a coat. Friend: You have spent ", "{sum} today."),
    Scene("The train left with {a} people and {b} more got on. It went on with ", "{sum} people."),
    Scene("Builder: The wall needs {a} bricks, the gate {b}. Supplier: I shall bring ", "{sum} bricks."),
    Scene("Beekeeper: One hive gave {a} grams, one {b}. Buyer: I take the whole harvest of ", "{sum} grams."),
    Scene("Printer: {a} pages are done, {b} remain. Editor: So the book will have ", "{sum} pages."),
)

SCENES: tuple[Scene, ...] = SEEN + HELD_OUT
