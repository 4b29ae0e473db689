"""Sums inside natural language: short scenes in which somebody adds two numbers.

- A scene ends where the sum begins, and the answer is the number alone: how a scene that was never trained on would go
  on behind it, nobody can know.
- `HELD_OUT` is written in test rows alone, so that test measures scenes never trained on; train and validation share
  `SEEN`.
- No scene may be readable as another one, or a prompt would have two answers; the tests read every scene back.
- All of them were written for this project; Shen et al. 2023 (arXiv 2311.14737, section on natural language) is the
  idea.
"""

SEEN: tuple[str, ...] = (
    "Student: What do I get when I add {a} and {b}? Teacher: You get ",
    "Student: I have to add {a} to {b} for homework. Teacher: Carry with care, the sum is ",
    "Teacher: Please add {a} and {b} on the board. Student: Let me see, that makes ",
    "Teacher: Who can tell me {a} plus {b}? Student: I can, it is ",
    "Customer: One machine costs {a} and the other {b}. Clerk: In dollars you pay ",
    "Customer: I would like to pay both bills, {a} and {b}. Cashier: Together that comes to ",
    "Cashier: Your items are {a} and {b} cents. Customer: So in cents I owe you ",
    "The farmer picked {a} apples on Monday and {b} on Tuesday. The apples of both days are ",
    "A library owned {a} books and bought {b} more. The number of its books is now ",
    "One box holds {a} screws, the next one {b}. Poured together they are ",
    "Anna: My sister walked {a} steps today. Ben: I walked {b}. Anna: Then your steps together are ",
    "Ben: I counted {a} red cars. Anna: And I counted {b} blue ones. Ben: The cars we saw were ",
    "Pilot: We flew {a} miles before lunch and {b} after it. Tower: In miles your day was ",
    "Driver: {a} miles yesterday, {b} miles today. Passenger: The miles so far are ",
    "Baker: We sold {a} rolls in the morning. Helper: And {b} since noon. Baker: Which makes ",
    "Captain: How much cargo? Mate: {a} crates below and {b} on deck, so the crates number ",
    "Grandmother had {a} stamps and found {b} in the attic. Her collection grew to ",
    "The first village has {a} people, the second has {b}. The people of both are ",
    "User: Compute {a} + {b}. Assistant: The result is ",
    "User: could you sum up {a} and {b} for me? Assistant: Sure. The total is ",
    "User: {a} plus {b}, please. Assistant: Here you are: ",
    "User: I forgot how much {a} and {b} are. Assistant: No problem, they add up to ",
    "Question: Tom has {a} marbles and wins {b}. How many has he now? Answer: ",
    "Question: A tank holds {a} litres and {b} litres are added. What is in it? Answer: ",
    "Question: What is the sum of {a} and {b}? Answer: ",
    "Engineer: The north pipe carries {a}, the south pipe {b}. Chief: Then plan for ",
    "Nurse: {a} doses arrived, and {b} were in the fridge. Doctor: Good, so the doses we can use are ",
    "Coach: First half {a} points, second half {b}. Player: Our points in the end were ",
    "Gardener: I planted {a} tulips. Neighbour: And I gave you {b}. Gardener: In spring I shall see ",
    "Clerk: The old debt is {a}. The new one is {b}. Judge: Write down a debt of ",
    "Reporter: How many votes? Officer: {a} by letter and {b} at the booth, hence ",
    "Child: If I save {a} coins and get {b} more? Mother: Then the coins you have will be ",
)

HELD_OUT: tuple[str, ...] = (
    "Sailor: {a} knots of rope here, {b} over there. Cook: Tie them up and you have ",
    "Visitor: The museum shows {a} coins and stores {b}. Guide: In total it keeps ",
    "User: My two numbers are {a} and {b}; add them. Assistant: Adding them gives ",
    "Question: A herd of {a} sheep meets a herd of {b}. How many sheep are there? Answer: ",
    "Pupil: Is it hard to add {a} and {b}? Master: Not at all, one finds ",
    "Shopper: I spent {a} on shoes, then {b} on a coat. Friend: Today you have spent ",
    "The train left with {a} people and {b} more got on. The number on board was then ",
    "Builder: The wall needs {a} bricks, the gate {b}. Supplier: The bricks I shall bring are ",
    "Beekeeper: One hive gave {a} grams, one {b}. Buyer: In grams I take a harvest of ",
    "Printer: {a} pages are done, {b} remain. Editor: So the pages of the book will be ",
)

SCENES: tuple[str, ...] = SEEN + HELD_OUT
