"""How each task is asked: VSI-Bench's wording, and ten phrasings of our own.

Slots are in braces. VSI-Bench's templates are facts of the benchmark (the appendix of
"Thinking in Space", and its published rows); ViCA-322K draws one of ten phrasings a
record, and those here are written anew. What a phrasing asks for, and in which unit,
is the same in all ten.
"""

INSTRUCTION = "Give the letter of the right option followed by the option itself."

VSI_WORDING: dict[str, str] = {
    "object_counting": "How many {category}(s) are in this room?",
    "object_abs_distance": (
        "Measuring from the closest point of each object, what is the direct distance "
        "between the {first} and the {second} (in meters)?"
    ),
    "object_size_estimation": (
        "What is the length of the longest dimension (length, width, or height) of the "
        "{category}, measured in centimeters?"
    ),
    "room_size_estimation": (
        "What is the size of this room (in square meters)? \nIf multiple rooms are "
        "shown, estimate the size of the combined space."
    ),
    "object_rel_distance": (
        "Measuring from the closest point of each object, which of these objects "
        "({listed}) is the closest to the {category}?\nIf there are multiple instances "
        "of an object category, measure to the closest."
    ),
    "object_rel_direction_easy": (
        "If I am standing by the {stand} and facing the {face}, is the {target} to the "
        "left or the right of the {face}?"
    ),
    "object_rel_direction_medium": (
        "If I am standing by the {stand} and facing the {face}, is the {target} to my "
        "left, right, or back?\nAn object is to my back if I would have to turn at "
        "least 135 degrees in order to face it."
    ),
    "object_rel_direction_hard": (
        "If I am standing by the {stand} and facing the {face}, is the {target} to my "
        "front-left, front-right, back-left, or back-right?\nThe directions refer to "
        "the quadrants of a Cartesian plane (if I am standing at the origin and facing "
        "along the positive y-axis)."
    ),
    "route_planning": (
        "You are a robot beginning at the {start} facing the {face}. You want to "
        "navigate to the {goal}. You will perform the following actions (Note: for "
        "each [please fill in], choose either 'turn back,' 'turn left,' or 'turn "
        "right.'): {actions} You have reached the final destination."
    ),
    "obj_appearance_order": (
        "What will be the first-time appearance order of the following categories in "
        "the video: {listed}?"
    ),
}

PHRASINGS: dict[str, tuple[str, ...]] = {
    "object_counting": (
        "How many {plural} can be seen in this room?",
        "Count the {plural} in the video and give their number.",
        "What is the total number of {plural} in this room?",
        "Looking at the whole video, how many {plural} does the room have?",
        "Give the number of {plural} in the room.",
        "How many different {plural} are there in this space?",
        "Tell me how many {plural} the video shows.",
        "If you counted every {category} in this room, what number would you get?",
        "The room holds some {plural}: how many?",
        "Work out how many {plural} stand in this room in all.",
    ),
    "object_abs_distance": (
        "Measuring from their closest points, how many meters lie between the {first} "
        "and the {second}?",
        "What is the shortest distance from the {first} to the {second}, in meters?",
        "How far apart are the {first} and the {second} at their closest points, in "
        "meters?",
        "Estimate the gap between the {first} and the {second} in meters, from the "
        "nearest point of one to the nearest point of the other.",
        "Give the distance in meters between the nearest points of the {first} and the "
        "{second}.",
        "In meters, how long is the shortest straight line that joins the {first} and "
        "the {second}?",
        "If I stretched a tape from the {first} to the closest part of the {second}, "
        "how many meters would it show at the least?",
        "How many meters separate the {first} from the {second}, closest point to "
        "closest point?",
        "Judge the closest distance between the {first} and the {second}. Answer in "
        "meters.",
        "The {first} and the {second}: how many meters are there between their closest "
        "points?",
    ),
    "object_size_estimation": (
        "How many centimeters does the longest side of the {category} measure?",
        "What is the largest dimension of the {category}, in centimeters?",
        "Give the length in centimeters of the longest of the {category}'s length, "
        "width and height.",
        "Estimate how long the {category} is along its longest side, in centimeters.",
        "Of the length, width and height of the {category}, how many centimeters is "
        "the greatest?",
        "In centimeters, what is the greatest extent of the {category}?",
        "How big is the {category} along its longest dimension? Answer in centimeters.",
        "Taking length, width and height, what is the biggest measure of the "
        "{category} in centimeters?",
        "If you measured the longest edge of the {category}, how many centimeters "
        "would you read?",
        "State the {category}'s longest dimension in centimeters.",
    ),
    "room_size_estimation": (
        "How many square meters does this room have? If the video shows several rooms, "
        "take them together.",
        "What is the floor area of this room in square meters? Several rooms count as "
        "one space.",
        "Estimate the area of the room in square meters, adding up all rooms that are "
        "shown.",
        "How large is the space in the video, in square meters?",
        "Give the size of this room in square meters (of all rooms together, if there "
        "are more).",
        "In square meters, how much floor does the filmed space have?",
        "Judge the floor area that the video shows. Answer in square meters.",
        "If you had to lay a new floor here, how many square meters would it take?",
        "What would you say is the total floor area here, in square meters?",
        "State the area of the whole room in square meters.",
    ),
    "object_rel_distance": (
        "Which of these is closest to the {category}: {listed}? Measure between the "
        "closest points, and to the nearest one where there are several.",
        "Of the following objects ({listed}), which one is nearest to the {category}, "
        "from closest point to closest point? Of several of a kind the nearest counts.",
        "Among {listed}, which has the smallest distance to the {category}? Use the "
        "closest points; of several alike take the nearest.",
        "Look for the {category}: which of {listed} lies nearest to it, measured at "
        "the closest points (with several of a kind, the nearest of them)?",
        "Starting at the {category}, which of these would you reach over the shortest "
        "straight line: {listed}? The closest points count, and of several the "
        "nearest.",
        "Choose what is closest to the {category} out of {listed}. Distances run "
        "between closest points; for several of a kind the smallest counts.",
        "Which object is the {category}'s nearest neighbor among {listed}? Measure "
        "from the closest points, to the closest where there are several.",
        "Compare the distances from the {category} to {listed}, between closest points "
        "and to the nearest of each kind. Which is the shortest?",
        "From the closest point of the {category}, which of {listed} has the nearest "
        "point? Of several of one kind, take the nearest.",
        "Tell me which one of {listed} is the least far from the {category}, taking "
        "closest points and the nearest of each kind.",
    ),
    "object_rel_direction_easy": (
        "I stand by the {stand} and look at the {face}. Is the {target} to the left or "
        "to the right of the {face}?",
        "Standing at the {stand} and facing the {face}, on which side of the {face} "
        "would I see the {target}, left or right?",
        "With the {stand} as my place and the {face} straight ahead, does the {target} "
        "lie left or right of the {face}?",
        "Suppose you are at the {stand}, turned towards the {face}. Left or right of "
        "the {face}: where is the {target}?",
        "Seen from the {stand}, is the {target} on the left or on the right of the "
        "{face}?",
        "If I face the {face} from the {stand}, to which side of the {face} is the "
        "{target}?",
        "Someone by the {stand} looks towards the {face}. Does the {target} stand to "
        "the left or to the right of the {face}?",
        "Place yourself at the {stand} and look straight at the {face}: is the "
        "{target} left or right of it?",
        "From the {stand} I look at the {face}. Is the {target} left or right of the "
        "{face}?",
        "Left or right: on which side of the {face} is the {target} for a person who "
        "stands by the {stand} and faces the {face}?",
    ),
    "object_rel_direction_medium": (
        "I stand by the {stand} and look at the {face}. Is the {target} on my left, on "
        "my right or at my back (a turn of 135 degrees or more)?",
        "Standing at the {stand} and facing the {face}, where is the {target}: left, "
        "right or back? Back means that I must turn 135 degrees or more to face it.",
        "With the {face} straight ahead of me and the {stand} beside me, which way do "
        "I turn to the {target}: left, right or, from 135 degrees on, back?",
        "Suppose you are at the {stand}, turned towards the {face}. Is the {target} to "
        "your left, right or back? It is to your back if you need to turn at least 135 "
        "degrees.",
        "For a person by the {stand} who faces the {face}, in which direction is the "
        "{target}: left, right or back (135 degrees and more)?",
        "If I face the {face} from the {stand}, do I find the {target} to my left, my "
        "right or my back? What takes a turn of at least 135 degrees is at my back.",
        "Someone by the {stand} looks towards the {face}. Name the side on which the "
        "{target} is: left, right or back, with back from 135 degrees on.",
        "Place yourself at the {stand} and look at the {face}. Where is the {target}, "
        "left, right or back? Call it back from a turn of 135 degrees.",
        "From the {stand} I look at the {face}. To see the {target}, do I look left, "
        "right or back (by 135 degrees or more)?",
        "Left, right or back: where is the {target} when I stand by the {stand} facing "
        "the {face}? Back is a turn of 135 degrees or more.",
    ),
    "object_rel_direction_hard": (
        "I stand by the {stand} and look at the {face}. Is the {target} to my "
        "front-left, front-right, back-left or back-right?",
        "Standing at the {stand} and facing the {face}, in which quadrant around me is "
        "the {target}: front-left, front-right, back-left or back-right?",
        "With the {face} straight ahead of me and the {stand} as my place, is the "
        "{target} front-left, front-right, back-left or back-right of me?",
        "Suppose you are at the {stand}, turned towards the {face}. Which quadrant "
        "holds the {target}: front-left, front-right, back-left or back-right?",
        "For a person by the {stand} who faces the {face}, where is the {target}: "
        "front-left, front-right, back-left or back-right?",
        "If I face the {face} from the {stand}, do I have the {target} to my "
        "front-left, front-right, back-left or back-right?",
        "Someone by the {stand} looks towards the {face}. Name the quadrant of the "
        "{target}: front-left, front-right, back-left or back-right.",
        "Place yourself at the {stand} and look at the {face}. Is the {target} in "
        "front or behind, and on which side: front-left, front-right, back-left or "
        "back-right?",
        "From the {stand} I look at the {face}. Is the {target} ahead or behind me, to "
        "the left or to the right?",
        "Front-left, front-right, back-left or back-right: where is the {target} when "
        "I stand by the {stand} facing the {face}?",
    ),
    "route_planning": (
        "A robot is at the {start} and faces the {face}. It is to reach the {goal} by "
        "these actions: {actions} Fill in each [please fill in] with turn left, turn "
        "right or turn back.",
        "You start at the {start}, looking at the {face}, and want to get to the "
        "{goal}. Which turns are missing here: {actions}",
        "Complete the way from the {start} to the {goal}. At the start the robot faces "
        "the {face}. {actions}",
        "Beginning by the {start} with the {face} ahead, these steps lead to the "
        "{goal}: {actions} What belongs in place of each [please fill in]?",
        "Plan the way to the {goal}. The robot stands at the {start} and faces the "
        "{face}. Its steps are: {actions} Choose turn left, turn right or turn back "
        "for each [please fill in].",
        "Which turns take a robot from the {start} to the {goal}, if it faces the "
        "{face} first and goes like this? {actions}",
        "Someone at the {start} faces the {face} and follows these steps to the "
        "{goal}: {actions} Tell the turns that have been left out.",
        "To go from the {start} to the {goal}, facing the {face} at first, you do the "
        "following: {actions} Put in the missing turns.",
        "Here is a route with gaps from the {start}, facing the {face}, to the {goal}: "
        "{actions} Which turn stands in each gap?",
        "The {goal} is where the robot must go. It begins at the {start}, faces the "
        "{face}, and acts so: {actions} Name its turns in order.",
    ),
    "obj_appearance_order": (
        "In which order do these appear for the first time in the video: {listed}?",
        "Put {listed} into the order in which the video first shows them.",
        "Which of the options gives the order of first appearance of {listed}?",
        "Watching the video from the start, in what order do you first see {listed}?",
        "Sort {listed} by when they are first seen in the video.",
        "When do {listed} come into view first? Give their order.",
        "What is the order in which {listed} enter the picture for the first time?",
        "From earliest to latest, how do {listed} show up in the video?",
        "The video shows {listed}. Which sequence follows their first appearance?",
        "Tell in which sequence {listed} are first visible.",
    ),
    "triangular_positional_relationship": (
        "The centers of the {a}, the {b} and the {c} form a triangle. Give its three "
        "sides in meters ({a} to {b}, {b} to {c}, {c} to {a}) and the angles at the "
        "{a}, the {b} and the {c} in degrees.",
        "Join the centers of the {a}, the {b} and the {c} by straight lines. How long "
        "are the sides in meters ({a} to {b}, {b} to {c}, {c} to {a}), and how large "
        "are the angles in degrees (at the {a}, the {b}, the {c})?",
        "Describe the triangle between the {a}, the {b} and the {c}, center to center: "
        "side lengths in meters ({a} to {b}, {b} to {c}, {c} to {a}), then the angles "
        "at {a}, {b} and {c} in degrees.",
        "Estimate the triangle of the {a}, the {b} and the {c}. State the distances "
        "between their centers in meters ({a} to {b}, {b} to {c}, {c} to {a}) and the "
        "angles at the {a}, the {b} and the {c} in degrees.",
        "How far apart are the centers of the {a} and the {b}, of the {b} and the {c}, "
        "and of the {c} and the {a}, in meters? And what are the angles of that "
        "triangle at the {a}, the {b} and the {c}, in degrees?",
        "Take the {a}, the {b} and the {c} as the corners of a triangle, each at its "
        "center. What are the sides from {a} to {b}, {b} to {c} and {c} to {a} in "
        "meters, and the angles at {a}, {b} and {c} in degrees?",
        "With corners at the centers of the {a}, the {b} and the {c}, a triangle has "
        "which sides in meters ({a} to {b}, {b} to {c}, {c} to {a}) and which angles "
        "in degrees (at the {a}, the {b}, the {c})?",
        "Work out the triangle whose corners are the centers of the {a}, the {b} and "
        "the {c}: first the sides {a} to {b}, {b} to {c} and {c} to {a} in meters, "
        "then the angles at the {a}, the {b} and the {c} in degrees.",
        "How do the {a}, the {b} and the {c} lie to each other? Answer with the "
        "distances of their centers in meters ({a} to {b}, {b} to {c}, {c} to {a}) and "
        "the angles at the {a}, the {b} and the {c} in degrees.",
        "Measure the triangle spanned by the centers of the {a}, the {b} and the {c}. "
        "Tell its sides in meters ({a} to {b}, {b} to {c}, {c} to {a}) and its angles "
        "at the {a}, the {b} and the {c} in degrees.",
    ),
}
