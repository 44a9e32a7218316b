"""The answer to one problem. The order matters: the model writes its reasoning before it commits to a number."""

from pydantic import BaseModel, Field


class Solution(BaseModel):
    reasoning: str = Field(description="The steps that lead to the answer.")
    answer: float = Field(description="The final answer as a plain number.")
